"""`.pth` files of the old format, damaged ones, and those that would do harm: read, or refused in one line."""

import contextlib
import os
import pickle
import struct
import tarfile
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest

from hmhi_jax.errors import InputError
from hmhi_jax.interop.torch_checkpoint import read_torch_checkpoint

DATA = Path(__file__).parent / "data"


def tensor_pickle(
    size="K\x02\x85", stride="K\x01\x85", offset="K\x00", count="K\x02", key="X\x01\x00\x00\x000"
) -> bytes:
    parts = [
        "ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n",
        key, "X\x03\x00\x00\x00cpu", count, "tQ", offset, size, stride, "\x89}tR.",
    ]  # fmt: skip
    return b"\x80\x02" + "".join(parts).encode("latin-1")


# --- the format before 1.6 --------------------------------------------------------------------------------------------


def test_a_file_of_the_old_format():
    value = read_torch_checkpoint(DATA / "legacy.pth", verify=True)
    assert list(value) == ["weight", "bias"]
    assert value["weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert value["bias"].tolist() == [0, 0]
    assert not value["weight"].flags.writeable


def old_format(path: Path, value: bytes, storages: dict[str, list[float]], protocol: int = 1001) -> Path:
    """A file as PyTorch wrote it; `value` is the value's pickle."""
    machine = {"protocol_version": protocol, "little_endian": True}
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, protocol, machine)]
    parts += [value, pickle.dumps(list(storages), 2)]
    parts += [struct.pack(f"<q{len(numbers)}f", len(numbers), *numbers) for numbers in storages.values()]
    path.write_bytes(b"".join(parts))
    return path


def old_tensor(view: str = "N", **changes: str) -> bytes:
    """The pickle of one tensor: as today's, but for a sixth field of the storage, the part of it that is meant."""
    return tensor_pickle(**changes).replace(b"tQ", view.encode("latin-1") + b"tQ")


def test_strides_and_views_of_the_old_format_are_honoured(tmp_path):
    storages = {"0": [0, 1, 2, 3, 4, 5]}
    transposed = old_tensor(size="K\x03K\x02\x86", stride="K\x01K\x03\x86", count="K\x06")
    path = old_format(tmp_path / "x.pth", transposed, storages)
    assert read_torch_checkpoint(path).tolist() == [[0, 3], [1, 4], [2, 5]]
    view = old_tensor("(X\x01\x00\x00\x00vK\x02K\x03t", count="K\x06")
    assert read_torch_checkpoint(old_format(path, view, storages)).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("value", "storages", "message"),
    [
        (old_tensor(), {"0": [1, 2, 3]}, "has 3 elements, 2 are announced"),
        (old_tensor(), {}, "list of storages"),
        (old_tensor(), {"0": [1, 2], "1": [1]}, "list of storages"),
        (old_tensor(size="K\x03\x85"), {"0": [1, 2]}, "past its storage"),
        (old_tensor("(X\x01\x00\x00\x00vK\x01K\x02t"), {"0": [1, 2]}, "past the end of storage 0"),
        (old_tensor("(NNNt"), {"0": [1, 2]}, "a view of a storage"),
        (tensor_pickle(), {"0": [1, 2]}, "no storage"),
        (b"\x80\x02K\x01", {}, "damaged"),
        (b"\x80\x02cos\nsystem\n.", {}, r"`os\.system`.*nothing was executed"),
    ],
)
def test_damaged_and_hostile_files_of_the_old_format(tmp_path, value, storages, message):
    with pytest.raises(InputError, match=message) as caught:
        read_torch_checkpoint(old_format(tmp_path / "x.pth", value, storages))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "head", "step"), [("legacy.pth", 0, 3), ("every_kind.pth", 200, 331)])
def test_every_truncation_is_one_line(tmp_path, name, head, step):
    whole = (DATA / name).read_bytes()
    for size in [*range(0, head, 7), *range(head, len(whole) - 1, step)]:
        path = tmp_path / "cut.pth"
        path.write_bytes(whole[:size])
        with pytest.raises(InputError) as caught:
            read_torch_checkpoint(path)
        assert "\n" not in str(caught.value)


def test_other_versions_and_the_tar_before_are_refused(tmp_path):
    with pytest.raises(InputError, match="version 1002, expected 1001"):
        read_torch_checkpoint(old_format(tmp_path / "x.pth", old_tensor(), {"0": [1, 2]}, 1002))
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        file.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(InputError, match=r"a tar.*torch\.save\(torch\.load\("):
        read_torch_checkpoint(tmp_path / "x.tar")


# --- hostile and damaged files ----------------------------------------------------------------------------------------


def archive(path: Path, data_pkl: bytes, storages: dict[str, bytes] | None = None, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", data_pkl)
        for key, value in (storages or {}).items():
            file.writestr(f"archive/data/{key}", value)
        for key, value in entries.items():
            file.writestr(f"archive/{key}", value)
    return path


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_call_is_refused_by_name_and_not_made(tmp_path, protocol):
    witness = tmp_path / "executed"
    pickled = pickle.dumps({"weight": Calls(os.system, f"touch {witness}")}, protocol)
    with pytest.raises(InputError, match=rf"`{os.system.__module__}\.system`.*nothing was executed"):
        read_torch_checkpoint(archive(tmp_path / "x.pth", pickled))
    assert not witness.exists()


@pytest.mark.parametrize(
    ("instructions", "found"),
    [
        (b"cbuiltins\neval\n(S'1'\ntR.", r"builtins\.eval"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93(\x8c\x011tR.", r"builtins\.eval"),
        (b"(S'1'\nios\nsystem\n.", r"os\.system"),
        (b"ctorch.storage\n_load_from_bytes\n(C\x01xtR.", r"torch\.storage\._load_from_bytes"),
        (b"ctorch._utils\n_rebuild_sparse_tensor\n.", r"_rebuild_sparse_tensor"),
        (b"cnumpy.core.multiarray\nscalar\n.", r"numpy\.core\.multiarray\.scalar"),
        (b"cargparse\nNamespace\n.", r"argparse\.Namespace"),
        (b"ccollections\nOrderedDict.__init__\n.", r"OrderedDict\.__init__"),
    ],
)
def test_names_outside_the_table(tmp_path, instructions, found):
    with pytest.raises(InputError, match=f"`.*{found}`"):
        read_torch_checkpoint(archive(tmp_path / "x.pth", instructions))


@pytest.mark.parametrize(
    "instructions",
    [
        b"",
        b".",
        b"\x80\x02]q\x00(K\x01e",  # no end
        b"\x80\x02K\x01K\x02.",  # two values
        b"\x80\x02h\x05.",  # a memo that was never written
        b"\x80\x02K\x01)R.",  # a number called
        b"\x80\x02K\x01}b.",  # state for a number
        b"\x80\x02\x81.",  # NEWOBJ
        b"\x80\x02\x82\x01.",  # the extension registry
        b"\x80\x02(e.",
        b"\x80\x02K\x01a.",
        b"\x80\x02}" + b"N" + b"\x85" * 200_000 + b"K\x01s.",  # hashing this key would overflow the C stack
        b"\x80\x02ccollections\nOrderedDict\n]]N" + b"\x85" * 200_000 + b"aK\x01aa\x85R.",  # nor by this way
        b"\x80\x02cbuiltins\nset\n]N" + b"\x85" * 200_000 + b"a\x85R.",
        b"\x80\x02ccollections\nCounter\n)R)\x81.",
        b"\x80\x02cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.",  # a type of objects
        b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",  # two gigabytes
        b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",  # a buffer of a terabyte
        b"\x80\x02r\xff\xff\xff\xffN.",
        b"\x80\x02X\xff\xff\xff\x7fabc.",  # a string of 2 GiB that is not there
        b"\x80\x02ccollections\nOrderedDict\nK\x05\x85R.",  # an item list that is a number
        b"I" + b"9" * 5000 + b"\n.",  # a number that takes long to read
    ],
)
def test_malformed_pickles_are_one_line(tmp_path, instructions):
    with pytest.raises(InputError, match="its pickle is damaged") as caught:
        read_torch_checkpoint(archive(tmp_path / "x.pth", instructions))
    assert "\n" not in str(caught.value)


def test_values_beside_the_weights_are_plain(tmp_path):
    beside = {
        "milestones": Counter({30: 1, 60: 1}),
        "seen": {"a", "b"},
        "order": OrderedDict(x=1),
        "best": np.float64(0.5),
        "count": np.int32(-3),
        "parts": (complex(1, 2), b"\xff", bytearray(b"ab")),
    }
    for protocol in (2, 4):
        value = read_torch_checkpoint(archive(tmp_path / "x.pth", pickle.dumps(beside, protocol)))
        assert value == {**beside, "parts": (complex(1, 2), b"\xff", b"ab")}
        assert type(value["milestones"]) is dict
        assert type(value["best"]) is float


def test_a_function_that_stands_where_a_value_should_is_named(tmp_path):
    with pytest.raises(InputError, match=r"`collections\.Counter`"):
        read_torch_checkpoint(archive(tmp_path / "x.pth", b"ccollections\nCounter\n."))


def test_no_state_is_set_on_what_the_table_gives(tmp_path):
    for instructions in (
        b"\x80\x02ccollections\nCounter\n}X\x05\x00\x00\x00builtX\x01\x00\x00\x00xsb.",
        b"\x80\x02ctorch\nFloatStorage\n}X\x05\x00\x00\x00dtypeK\x01sb.",
    ):
        with pytest.raises(InputError, match=r"damaged \(a state for"):
            read_torch_checkpoint(archive(tmp_path / "x.pth", instructions))


def test_a_tensor_made_by_hand(tmp_path):
    storage = struct.pack("<2f", 1, 2)
    path = archive(tmp_path / "x.pth", tensor_pickle(), {"0": storage})
    assert read_torch_checkpoint(path).tolist() == [1, 2]


def test_big_endian_files(tmp_path):
    path = archive(tmp_path / "x.pth", tensor_pickle(), {"0": struct.pack(">2f", 1, 2)}, byteorder=b"big")
    array = read_torch_checkpoint(path)
    assert array.tolist() == [1, 2]
    assert array.dtype.isnative


@pytest.mark.parametrize(
    "changes",
    [
        {"size": "K\x03\x85"},  # past the end
        {"offset": "K\x01"},
        {"stride": "K\x02\x85"},
        {"offset": "J\xff\xff\xff\xff"},  # before the beginning
        {"stride": "J\xff\xff\xff\xff\x85"},
        {"count": "K\x03"},  # a storage larger than its file
        {"count": "J\xff\xff\xff\xff"},
        {"size": "K\x02K\x02\x86"},  # two sizes, one stride
        {"size": "J\xff\xff\xff\x7f\x85", "stride": "K\x00\x85"},  # eight gigabytes out of eight bytes
        {"size": "X\x01\x00\x00\x002\x85"},  # a string
        {"size": "K\x02"},  # not even a tuple
        {"key": "K\x00"},
    ],
)
def test_tensors_that_claim_what_is_not_theirs(tmp_path, changes):
    path = archive(tmp_path / "x.pth", tensor_pickle(**changes), {"0": struct.pack("<2f", 1, 2)})
    with pytest.raises(InputError, match="its pickle is damaged"):
        read_torch_checkpoint(path)


def test_a_missing_storage(tmp_path):
    with pytest.raises(InputError, match="has no entry archive/data/0"):
        read_torch_checkpoint(archive(tmp_path / "x.pth", tensor_pickle()))


def test_no_flipped_byte_of_the_pickle_gets_out_as_anything_but_an_input_error(tmp_path):
    whole = (DATA / "every_kind.pth").read_bytes()
    with zipfile.ZipFile(DATA / "every_kind.pth") as file:
        pickled = file.read("every_kind/data.pkl")
    begin = whole.index(pickled)
    path = tmp_path / "flipped.pth"
    for position in range(0, len(pickled), 5):
        damaged = bytearray(whole)
        damaged[begin + position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):
            read_torch_checkpoint(path)


def test_a_flipped_byte_of_a_storage_is_found_by_its_checksum(tmp_path):
    whole = bytearray((DATA / "every_kind.pth").read_bytes())
    position = whole.index(np.arange(12, dtype=np.float32).tobytes())
    whole[position + 5] ^= 4
    path = tmp_path / "flipped.pth"
    path.write_bytes(whole)
    read_torch_checkpoint(path)  # mapped, not read
    with pytest.raises(InputError, match=r"1 of \d+ storages differ from their checksums"):
        read_torch_checkpoint(path, verify=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>Google Drive can't scan this file for viruses", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n", "starts with"),
        (b"PK\x03\x04" + bytes(100), "cut short or damaged"),
    ],
)
def test_what_people_save_as_pth(tmp_path, content, words):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_torch_checkpoint(path)


def test_compressed_archives_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickle.dumps({"a": 1}, 2))
    with pytest.raises(InputError, match="compressed"):
        read_torch_checkpoint(path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_torch_checkpoint(tmp_path / "nothing.pth")
    with pytest.raises(InputError, match="cannot be read"):
        read_torch_checkpoint(tmp_path)
