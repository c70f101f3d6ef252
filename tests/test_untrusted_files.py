"""Files that only hold data execute nothing, whatever is in them: pickles, arrays of objects, folders, pictures."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from hmhi_jax.data.flow_folder import read_recipe
from hmhi_jax.data.layouts import open_dataset
from hmhi_jax.data.pictures import read_picture
from hmhi_jax.errors import InputError
from hmhi_jax.interop.weight_sources import read_source


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def archive(path, name, data):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, data)
    return path


def orbax(folder, data):
    """A folder that looks like one of `hmhi convert`, with a pickle in the place of every file."""
    (folder / "variables").mkdir(parents=True)
    for name in ("_METADATA", "_sharding", "manifest.ocdbt"):
        (folder / "variables" / name).write_bytes(data)
    return folder


def hostile(folder, mark):
    """Files with the payload in them, and how each is read."""
    data = pickle.dumps({"network": Payload(mark)}, protocol=2)
    objects = io.BytesIO()
    np.save(objects, np.array([Payload(mark)], object), allow_pickle=True)
    plain, recipe, index = folder / "plain.pth", folder / "recipe.json", folder / "packed"
    plain.write_bytes(data)
    recipe.write_text(f"__import__('os').mkdir({str(mark)!r})")
    index.mkdir()
    (index / "index.json").write_bytes(data)
    picture = folder / "p.png"  # PostScript, for which Pillow would start a program
    picture.write_text(f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n({mark}) (w) file closefile showpage\n")
    return {
        "pickle": (read_source, plain),
        "pickle in a zip": (read_source, archive(folder / "zip.pth", "archive/data.pkl", data)),
        "array of objects": (read_source, archive(folder / "objects.npz", "weight.npy", objects.getvalue())),
        "Orbax folder": (read_source, orbax(folder / "orbax", data)),
        "recipe": (read_recipe, recipe),
        "packed set": (open_dataset, index),
        "picture": (read_picture, picture),
    }


def test_data_is_not_executed(tmp_path):
    mark = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.is_dir()  # it would
    mark.rmdir()
    for name, (read, path) in hostile(tmp_path, mark).items():
        with pytest.raises(InputError):
            read(path)
        assert not mark.exists(), name
