"""Reading and writing .pth without PyTorch. The files in data/ were written by torch 2.13."""

import io
import pickletools
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from hmhi_jax.errors import InputError
from hmhi_jax.interop.conversion import write_torch_checkpoint
from hmhi_jax.interop.torch_checkpoint import read_torch_checkpoint
from hmhi_jax.interop.torch_pickle import TorchDtype

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def every_kind():
    return read_torch_checkpoint(DATA / "every_kind.pth", verify=True)


def test_every_dtype(every_kind):
    network = every_kind["network"]
    expected = {
        "float32": (np.float32, np.arange(12).reshape(3, 4)),
        "float16": (np.float16, (np.arange(6, dtype=np.float16) / np.float16(3))),
        "bfloat16": (ml_dtypes.bfloat16, (np.arange(6, dtype=np.float32) / 3).reshape(2, 3).astype(ml_dtypes.bfloat16)),
        "float64": (np.float64, np.arange(3) / 7),
        "float8": (ml_dtypes.float8_e4m3fn, [1, -2, 0.5]),
        "int64": (np.int64, 7),
        "uint16": (np.uint16, [1, 65535]),
        "bool": (np.bool_, [True, False]),
        "complex64": (np.complex64, [1 + 2j, 3 - 1j]),
        "conjugate": (np.complex64, [1 - 2j, 3 + 1j]),
    }
    for name, (dtype, values) in expected.items():
        assert network[name].dtype == dtype, name
        np.testing.assert_array_equal(network[name], np.asarray(values, dtype), err_msg=name)


def test_strides_are_honoured(every_kind):
    network = every_kind["network"]
    base = np.arange(120, dtype=np.float32).reshape(10, 12)
    np.testing.assert_array_equal(network["whole"], base)
    np.testing.assert_array_equal(network["transposed"], base.T)
    np.testing.assert_array_equal(network["slice"], base[2:5, 1::3])
    np.testing.assert_array_equal(network["expanded"], np.repeat([[1.0], [2.0], [3.0]], 5, 1))
    np.testing.assert_array_equal(network["channels_last"], np.arange(24).reshape(1, 2, 3, 4))
    assert network["parameter"].tolist() == [1, 1]
    assert network["empty"].shape == (0, 3)


def test_shared_storages_stay_shared_and_nothing_is_copied(every_kind):
    network = every_kind["network"]
    for name in ("transposed", "slice"):
        assert np.shares_memory(network["whole"], network[name])
    assert not network["whole"].flags.writeable
    assert not network["whole"].flags.owndata


def test_plain_values_and_optimiser_state(every_kind):
    assert every_kind["epoch"] == 3
    assert every_kind["misc"] == [1, 2.5, (None, True), "x", TorchDtype("float32"), (2, 3), "cpu", 2**70, -5]
    assert list(every_kind["network"])[:2] == ["float32", "float16"]
    assert every_kind["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    np.testing.assert_allclose(every_kind["optimizer"]["state"][1]["exp_avg"], [0.1, 0.1])


def test_a_file_without_checksums_is_no_damage():
    assert read_torch_checkpoint(DATA / "without_checksums.pth", verify=True)["weight"].tolist() == [
        [0, 1, 2],
        [3, 4, 5],
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("whole_module.pth", ("`torch.nn.modules.linear.Linear`", "nothing was executed", "state_dict()")),
        ("torchscript.pt", ("TorchScript",)),
    ],
)
def test_other_files_of_torch(name, words):
    with pytest.raises(InputError) as caught:
        read_torch_checkpoint(DATA / name)
    assert "\n" not in str(caught.value)
    for word in (name, *words):
        assert word in str(caught.value)


def test_what_is_written_is_read_back(tmp_path, every_kind):
    value = {
        "network": {k: v for k, v in every_kind["network"].items() if k not in ("uint16", "float8")},
        "numbers": [1, -5, 2**40, 1.5, True, None, ("a", "b"), {}],
    }
    write_torch_checkpoint(tmp_path / "x.pth", value)
    back = read_torch_checkpoint(tmp_path / "x.pth", verify=True)
    assert back["numbers"] == value["numbers"]
    for name, array in value["network"].items():
        assert back["network"][name].dtype == array.dtype
        assert back["network"][name].shape == array.shape
        np.testing.assert_array_equal(back["network"][name], array)


def test_storages_are_aligned_and_the_pickle_is_torch_s(tmp_path):
    write_torch_checkpoint(tmp_path / "x.pth", {"a": np.ones(3, np.float32), "b": np.zeros((2, 2), np.float16)})
    data = (tmp_path / "x.pth").read_bytes()
    for content in (np.ones(3, np.float32).tobytes(), bytes(8)):
        assert data.index(content) % 64 == 0 or content == bytes(8)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.testzip() is None
        names = {str(arg) for op, arg, _ in pickletools.genops(file.read("archive/data.pkl")) if op.name == "GLOBAL"}
    assert names == {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch FloatStorage",
        "torch HalfStorage",
    }


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(TypeError, match="cannot hold object"):
        write_torch_checkpoint(tmp_path / "x.pth", {"a": object()})
    (tmp_path / "file").write_text("1")
    with pytest.raises(InputError, match="cannot be written"):
        write_torch_checkpoint(tmp_path / "file" / "x.pth", {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
