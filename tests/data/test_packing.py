"""Packed data sets: bytes untouched, shards resumed and checked."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_datasets import every_layout, release_tree

from hmhi_jax.data.layouts import open_dataset
from hmhi_jax.data.masks import read_mask
from hmhi_jax.data.packing import EncodedVideo, PackedForm, pack_dataset, write_packed
from hmhi_jax.data.pictures import read_picture
from hmhi_jax.data.records import PackedDataset
from hmhi_jax.errors import InputError

PLAN = [(f"video{n}", 2 + n) for n in range(5)]


def encode(number: int) -> EncodedVideo:
    """Frames with random bytes; flow pictures of odd frames, a mask of frame 1."""
    rng = np.random.default_rng(number)
    length = PLAN[number][1]
    frames = tuple(rng.bytes(50 + n) for n in range(length))
    flows = tuple(frame[:9] if n % 2 else None for n, frame in enumerate(frames))
    masks = tuple(frame[:3] if n == 1 else None for n, frame in enumerate(frames))
    return EncodedVideo(f"video{number}", tuple(f"{n:05d}" for n in range(length)), frames, flows, masks, "cat")


def fail_at(last: int, number: int) -> EncodedVideo:
    if number == last:
        raise InputError(f"video {number} cannot be read")
    return encode(number)


def read_all(pictures):
    return tuple(picture and picture.read_bytes() for picture in pictures)


def contents(packed: PackedDataset):
    return [
        (video.name, video.label, video.frame_names, *map(read_all, (video.frames, video.flows, video.masks)))
        for video in packed
    ]


def expected():
    videos = map(encode, range(len(PLAN)))
    return [(v.name, v.label, v.frame_names, v.frames, v.flows, v.masks) for v in videos]


def shard_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_written_is_read(tmp_path):
    seen = []
    packed = write_packed(
        tmp_path / "a", PLAN, encode, dataset="cats", details={"size": [2, 3]}, frames_per_shard=7,
        advance=lambda name, frames: seen.append((name, frames)),
    )  # fmt: skip
    assert contents(packed) == expected()
    assert seen == PLAN
    assert (packed.name, packed.details) == ("cats", {"size": [2, 3]})
    # 2 + 3 frames, 4, 5, 6: a video is never split.
    assert [path.name for path in packed.shards] == [f"shard-{n:05d}.array_record" for n in range(4)]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["index.json", *(s.name for s in packed.shards)]
    assert packed.problems() == []


def test_shards_do_not_depend_on_workers(tmp_path):
    for name, workers in (("a", 0), ("b", 2)):
        write_packed(tmp_path / name, PLAN, encode, dataset="cats", frames_per_shard=7, workers=workers)
    assert shard_bytes(tmp_path / "a") == shard_bytes(tmp_path / "b")


def test_an_interrupted_packing_goes_on(tmp_path):
    whole = write_packed(tmp_path / "whole", PLAN, encode, dataset="cats", frames_per_shard=7)
    part = tmp_path / "part"
    with pytest.raises(InputError, match="video 3 cannot be read"):
        write_packed(part, PLAN, functools.partial(fail_at, 3), dataset="cats", frames_per_shard=7)
    with pytest.raises(InputError, match=r"index\.json: not found"):
        PackedDataset(part)
    before = {path: path.stat().st_mtime_ns for path in part.glob("*.array_record")}
    assert len(before) == 2
    encoded = []
    write_packed(part, PLAN, lambda n: encoded.append(n) or encode(n), dataset="cats", frames_per_shard=7)
    assert encoded == [3, 4]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert shard_bytes(part) == shard_bytes(whole.folder)
    write_packed(
        part, PLAN, functools.partial(fail_at, 0), dataset="cats", frames_per_shard=7
    )  # finished: nothing is made


def test_another_packing_is_not_mixed_in(tmp_path):
    with pytest.raises(InputError, match="video 3"):
        write_packed(tmp_path, PLAN, functools.partial(fail_at, 3), dataset="cats", frames_per_shard=7)
    with pytest.raises(InputError, match="holds the beginning of a packing with other videos or settings"):
        write_packed(tmp_path, PLAN[:4], encode, dataset="cats", frames_per_shard=7)
    write_packed(tmp_path, PLAN, encode, dataset="cats", frames_per_shard=7)
    with pytest.raises(InputError, match="already holds the packed data set 'cats'"):
        write_packed(tmp_path, PLAN, encode, dataset="cats", details={"quality": 3}, frames_per_shard=7)
    with pytest.raises(InputError, match="came as 'video1', planned was 'video0' of 2 frames"):
        write_packed(tmp_path / "b", PLAN, lambda n: encode(n + 1), dataset="cats")
    with pytest.raises(InputError, match="names must be unique"):
        write_packed(tmp_path / "c", [*PLAN, PLAN[0]], encode, dataset="cats")


def test_missing_and_cut_shards_are_found(tmp_path):
    packed = write_packed(tmp_path, PLAN, encode, dataset="cats", frames_per_shard=7)
    first, second = packed.shards[:2]
    first.unlink()
    second.write_bytes(second.read_bytes()[:-100])
    lines = packed.problems()
    assert lines[0].startswith(f"{first}: not found")
    assert f"{second}: " in lines[1]
    assert "bytes, expected" in lines[1]
    for video in (packed[0], packed[2]):
        with pytest.raises(OSError, match=r"shard-0000[01]\.array_record"):
            video.frames[0].read_bytes()


def test_foreign_indexes_are_refused(tmp_path):
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(InputError, match="not readable as JSON"):
        PackedDataset(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"format": "hmhi-packed", "version": 99}))
    with pytest.raises(InputError, match=r"format and version are \('hmhi-packed', 99\)"):
        PackedDataset(tmp_path)


def test_every_layout_packs_byte_for_byte(tmp_path):
    for layout, root in every_layout(tmp_path / "sets").items():
        dataset = open_dataset(root, split="train" if layout == "youtube-vos" else None)
        pack_dataset(dataset, tmp_path / layout)
        packed = open_dataset(tmp_path / layout)
        assert packed.name == dataset.name
        for video, same in zip(dataset.videos, packed.videos, strict=True):
            assert (video.name, video.label, video.frame_names) == (same.name, same.label, same.frame_names)
            assert video.annotated == same.annotated
            for kind in ("frames", "flows", "masks"):
                for one, other in zip(getattr(video, kind), getattr(same, kind), strict=True):
                    assert (one and one.read_bytes()) == (other and other.read_bytes())


@pytest.mark.parametrize(("quality", "codec", "most"), [(0, "jpeg", 0), (90, "jpeg", 12), (90, "webp", 60)])
def test_packing_at_training_size(quality, codec, most, tmp_path):
    dataset = open_dataset(release_tree(tmp_path / "set", videos=2, count=3))
    pack_dataset(dataset, tmp_path / "small", PackedForm((32, 64), quality, codec))
    for video, small in zip(dataset.videos, open_dataset(tmp_path / "small").videos, strict=True):
        for frame in range(3):
            for kind in ("frames", "flows"):
                exact = read_picture(getattr(video, kind)[frame], (32, 64)).astype(int)
                packed = read_picture(getattr(small, kind)[frame]).astype(int)
                assert np.abs(exact - packed).max() <= most  # WebP halves the resolution of colour
                assert np.abs(exact - packed).mean() < 4
            np.testing.assert_array_equal(read_mask(small.masks[frame]), read_mask(video.masks[frame], (32, 64)))


def test_an_unknown_codec_is_refused():
    with pytest.raises(InputError, match="codec is 'png', expected 'jpeg' or 'webp'"):
        PackedForm((32, 64), 90, "png")


def test_splits_of_packed_data_sets(tmp_path):
    root = release_tree(tmp_path / "set", videos=1, count=2)
    pack_dataset(open_dataset(root, split="train"), tmp_path / "packed")
    assert len(open_dataset(tmp_path / "packed", split="train")) == 1
    with pytest.raises(InputError, match="the split 'train' was packed, asked for is 'val'"):
        open_dataset(tmp_path / "packed", split="val")


_FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from data.test_packing import PLAN, encode
from hmhi_jax.data.packing import write_packed
from hmhi_jax.errors import InputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # no file may grow beyond this: what a full disk looks like
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    write_packed(Path(sys.argv[1]), PLAN, encode, dataset="cats", frames_per_shard=7)
except InputError as error:
    sys.exit(str(error))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk_is_one_line_and_nothing_half_made_counts(tmp_path):
    words = [sys.executable, "-c", _FULL, tmp_path / "full", Path(__file__).parents[1]]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert "shard-00000.array_record: cannot be written" in done.stderr.splitlines()[-1]
    assert list((tmp_path / "full").iterdir()) == []
    (tmp_path / "full/.shard-00000.array_record.1.1.partial").write_bytes(b"left by a process that was killed")
    packed = write_packed(tmp_path / "full", PLAN, encode, dataset="cats", frames_per_shard=7)
    assert contents(packed) == expected()
    assert not list(packed.folder.glob("*.partial"))


def test_malformed_indexes_are_one_line(tmp_path):
    write_packed(tmp_path, PLAN, encode, dataset="cats", frames_per_shard=7)
    index = tmp_path / "index.json"
    whole = json.loads(index.read_text())
    video = whole["videos"][1]
    for wrong in (
        "[" * 50_000 + "]" * 50_000,
        json.dumps(whole | {"videos": 5}),
        json.dumps(whole | {"plan": None}),
        json.dumps(whole | {"shards": [{"file": "../../x", "records": 1, "bytes": 1}]}),
        json.dumps(whole | {"videos": [whole["videos"][0], video | {"flows": "0"}]}),
        json.dumps(whole | {"videos": [whole["videos"][0], video | {"shard": 99}]}),
        json.dumps(whole | {"videos": [whole["videos"][0], video | {"frames": [1, 2, 3]}]}),
        json.dumps(whole | {"videos": [whole["videos"][0], video | {"name": "../elsewhere"}]}),
        json.dumps(whole | {"videos": [whole["videos"][0], {}]}),
        # Records that are not those of the video, or no records: each follows the one before, none twice.
        json.dumps(whole | {"videos": [whole["videos"][0], video | {"first": 10**30}]}),
        json.dumps(whole | {"videos": [whole["videos"][0] | {"first": 1}, video]}),
        json.dumps(whole | {"videos": [whole["videos"][0], video | {"first": video["first"] + 1}]}),
        json.dumps(whole | {"videos": [whole["videos"][0], video | {"flows": "x" * len(video["flows"])}]}),
        json.dumps(whole | {"videos": [whole["videos"][0], video | {"frames": ["0"] * len(video["frames"])}]}),
        json.dumps(whole | {"videos": [*whole["videos"], whole["videos"][0]]}),
    ):
        index.write_text(wrong)
        with pytest.raises(InputError, match=r"index\.json: (not readable|.* is not as the format says)") as caught:
            PackedDataset(tmp_path)
        assert "\n" not in str(caught.value)
    index.write_text(json.dumps(whole))
    assert contents(PackedDataset(tmp_path)) == expected()
