"""Release state dicts in and out."""

import numpy as np
import pytest
from goldens import cases

from hmhi_jax.errors import InputError
from hmhi_jax.interop import from_torch, to_torch
from hmhi_jax.interop.torch_weights import UNUSED
from hmhi_jax.models import build_model


@pytest.fixture(scope="module")
def b1():
    model = build_model("mit_b1")
    return model, cases.state_dict(model, 0)


def test_round_trip_is_exact_and_complete(b1):
    model, given = b1
    back = to_torch(model, from_torch(model, given))
    assert set(back) == set(given)
    for name, array in given.items():
        if not UNUSED.fullmatch(name):
            np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_unused_entries_are_written_as_the_copies_that_live(b1):
    model, given = b1
    back = to_torch(model, from_torch(model, given))
    unused = [name for name in back if UNUSED.fullmatch(name)]
    assert len(unused) == 16
    for name in unused:
        live = name.replace(".cross_attention.", ".pixel_transformer.layers.0.cross_attn_image.")
        np.testing.assert_array_equal(back[name], given[live])


def test_a_data_parallel_prefix_is_taken_off(b1):
    model, given = b1
    variables = from_torch(model, {f"module.{name}": array for name, array in given.items()})
    np.testing.assert_array_equal(
        variables["params"]["decoder"]["predictor"]["bias"], given["decode_head.predictor.conv.bias"]
    )


def test_every_problem_is_listed_in_one_error(b1):
    model, given = b1
    broken = dict(given)
    del broken["backbone.norm1.weight"], broken["obj_reduce.0.bias"]
    broken["head.weight"] = np.zeros((3, 3), np.float32)
    broken["decode_head.predictor.conv.bias"] = np.zeros(2, np.float32)
    with pytest.raises(InputError) as caught:
        from_torch(model, broken)
    text = str(caught.value)
    for words in (
        "mit_b1",
        "2 missing: backbone.norm1.weight, obj_reduce.0.bias",
        "1 unused: head.weight",
        "1 misshapen: decode_head.predictor.conv.bias is (2,), expected (1,)",
    ):
        assert words in text


def test_weights_of_other_switches_are_refused(b1):
    _, given = b1
    with pytest.raises(InputError, match="unused: obj_reduce"):
        from_torch(build_model("mit_b1", sgim=False), given)
