"""Names and shapes of variables: those of `init`, kept on disk, and never believed when they are not."""

import jax
import jax.numpy as jnp
import pytest

from hmhi_jax.interop import model_shapes
from hmhi_jax.interop.fit import leaves_by_path
from hmhi_jax.interop.model_shapes import abstract_variables, encoder_shapes, variable_shapes
from hmhi_jax.models import build_model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of caches of its own, and a process that has derived nothing yet."""
    monkeypatch.setenv("HMHI_CACHE", str(tmp_path))
    forget()
    yield tmp_path / "shapes"
    forget()


def forget() -> None:
    model_shapes._of_network.cache_clear()
    model_shapes._of_encoder.cache_clear()


def refuse_tracing(monkeypatch) -> None:
    def traced(*_):
        raise AssertionError("the network was traced")

    monkeypatch.setattr(jax, "eval_shape", traced)


def test_they_are_those_of_init_whatever_leaves_no_trace(folder):
    model = build_model(
        "conv_tiny", memory_frames=2, top_k=3, dtype="bfloat16", drop_path=0.3, plam=False, decoder_width=24
    )
    clip = jax.ShapeDtypeStruct((1, 2, 64, 64, 3), jnp.float32)
    assert variable_shapes(model) == leaves_by_path(jax.eval_shape(model.init, jax.random.key(0), clip, clip))
    assert leaves_by_path(abstract_variables(model)) == variable_shapes(model)


def test_what_was_derived_once_is_read_back_without_tracing(folder, monkeypatch):
    model = build_model("conv_tiny")
    derived, encoder = variable_shapes(model), encoder_shapes("conv_tiny", True)
    assert len(list(folder.iterdir())) == 2
    forget()
    with monkeypatch.context() as patched:
        refuse_tracing(patched)
        assert variable_shapes(build_model("conv_tiny", memory_frames=5)) == derived
        assert encoder_shapes("conv_tiny", True) == encoder
        with pytest.raises(AssertionError, match="was traced"):  # another network, and other sources
            variable_shapes(build_model("conv_tiny", sgim=False))
        patched.setattr(model_shapes, "_digest_of_sources", lambda: "changed")
        forget()
        with pytest.raises(AssertionError, match="was traced"):
            variable_shapes(model)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"params/a": 5}', '{"params/a": [[1], "float7"]}', "[" * 50_000])
def test_what_is_no_table_is_derived_anew(folder, content):
    derived = variable_shapes(build_model("conv_tiny"))
    (path,) = folder.iterdir()
    good = path.read_text()
    path.write_text(content)
    forget()
    assert variable_shapes(build_model("conv_tiny")) == derived
    assert path.read_text() == good


def test_a_folder_that_cannot_be_written_costs_time_alone(folder):
    folder.parent.joinpath("shapes").write_text("in the way")
    assert variable_shapes(build_model("conv_tiny"))
