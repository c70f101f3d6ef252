"""The notebook of first minutes, run in a kernel of its own."""

import base64
import io
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


@pytest.mark.slow
def test_every_cell_but_the_installation_runs(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    notebook.cells = [cell for cell in notebook.cells if "install" not in cell.metadata.get("tags", ())]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")]))
    nbclient.NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output.get("text", "") for output in outputs)
    assert "the same masks: True" in text
    assert float(text.split("true masks: ")[1].split()[0]) > 0.5
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    frames, masks, evening = (np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in pictures)
    assert set(np.unique(masks)) == {0, 255}
    inside = masks[:, : frames.shape[1] // 3] > 0
    with Image.open(tmp_path / "cutout.webp") as cut:
        assert cut.n_frames == 12
        assert (np.asarray(cut.convert("RGBA"))[..., 3] == np.where(inside, 255, 0)).all()
    assert evening.shape == (160, 288, 3)
