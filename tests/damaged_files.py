"""Files of every kind that is read, and what happens to files: cut, flipped, spliced, with claims that are not true.

`VALID` makes them, `READERS` read them as the commands do, `damaged` spoils one. `benchmarks/fuzz.py` tries thousands,
also in whole commands; `tests/test_damaged_files.py` some of each.
"""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from made_datasets import object_mask, release_tree, save, write_palette_mask
from PIL import Image
from small_network import random_variables
from small_videos import SIZE, moving_square, network, save_network, write_video

from hmhi_jax.data.flow import read_flo, write_flo
from hmhi_jax.data.flow_folder import read_recipe
from hmhi_jax.data.layouts import open_dataset
from hmhi_jax.data.masks import read_truth
from hmhi_jax.data.open_videos import open_videos
from hmhi_jax.data.packing import PackedForm, pack_dataset
from hmhi_jax.data.pictures import picture_size, read_picture
from hmhi_jax.errors import InputError
from hmhi_jax.evaluation.frame_scores import read_prediction
from hmhi_jax.inference.stream_state import StreamState
from hmhi_jax.interop.conversion import write_torch_checkpoint
from hmhi_jax.interop.identify import identify
from hmhi_jax.interop.shapes import leaves_by_path
from hmhi_jax.interop.weight_sources import read_source
from hmhi_jax.interop.weights import load_weights, write_arrays

NUMBERS = (0, 1, -1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1)


def valid_files(folder: Path) -> dict[str, list[Path]]:
    """Files that are whole, by kind; of a kind that is a folder, its files."""
    frames = moving_square(6)
    mask = object_mask(0).astype(np.uint8)
    picture = Image.fromarray(frames[0])
    folder.mkdir(parents=True, exist_ok=True)
    codecs = {".mp4": "libx264", ".mkv": "libx264", ".avi": "mpeg4", ".webm": "libvpx", ".ts": "mpeg2video"}
    videos = [write_video(folder / f"clip{suffix}", frames, codec=codec) for suffix, codec in codecs.items()]
    pictures = [folder / f"p{suffix}" for suffix in (".jpg", ".png", ".webp", ".tif", ".bmp", ".ppm")]
    for path in pictures:
        picture.save(path)
    animated = [folder / f"a{suffix}" for suffix in (".webp", ".png", ".tif", ".gif")]
    for path in animated:
        picture.save(path, save_all=True, append_images=[Image.fromarray(frame) for frame in frames[1:]])
    masks = [save(folder / "m.png", mask * 255), save(folder / "m16.tif", mask.astype(np.uint16) * 65535)]
    write_palette_mask(folder / "labels.png", mask)
    red = (mask[..., None] * np.uint8([200, 0, 0])).repeat(8, 0).repeat(8, 1)
    masks += [save(folder / f"red{suffix}", red) for suffix in (".jpg", ".webp")]
    masks += [folder / "labels.png", save(folder / "cut.png", np.dstack([frames[0], mask * 255]))]
    write_flo(folder / "f.flo", np.zeros((8, 12, 2), np.float32))
    recipe = folder / "flow_recipe.json"
    recipe.write_text(load_weights(save_network(folder / "net.safetensors")).flow_recipe.to_json())
    arrays = {name: np.asarray(leaf) for name, leaf in leaves_by_path(random_variables(network())).items()}
    few = dict(list(arrays.items())[:6])
    header = {"model": {"backbone": "mit_test"}, "input_size": list(SIZE), "flow": {}, "extra": {}}
    write_arrays(folder / "few.npz", "npz", few, header)
    write_torch_checkpoint(folder / "few.pth", {"network": few, "epoch": 3, "optimizer": {"lr": 0.1}})
    legacy = Path(__file__).parent / "interop" / "data" / "legacy.pth"
    (folder / "legacy.pth").write_bytes(legacy.read_bytes())
    state = StreamState(5, {"deep.keys": np.zeros((2, 3), np.float32)}, frames[0], SIZE, np.ones((2, 9), np.float32))
    state.save(folder / "state.safetensors", {"areas": np.zeros(5, np.float32)}, {"names": ["0"]})
    pack_dataset(open_dataset(release_tree(folder / "tree", 1, 3)), folder / "packed", PackedForm(None))
    return {
        "video": videos,
        "picture": pictures,
        "animation": animated,
        "mask": masks,
        "flow": [folder / "f.flo"],
        "recipe": [recipe],
        "weights": [folder / "net.safetensors", folder / "few.npz", folder / "few.pth", folder / "legacy.pth"],
        "stream": [folder / "state.safetensors"],
        "packed": sorted((folder / "packed").iterdir()),
    }


def _video(path: Path) -> None:
    for video in open_videos([path]):
        for _ in video.frames():
            pass
        video.fingerprint()


def _picture(path: Path) -> None:
    picture_size(path)
    read_picture(path)
    read_picture(path, (32, 32), "fast")


def _mask(path: Path) -> None:
    read_truth(path)
    read_prediction(path)


def _weights(path: Path) -> None:
    identify(read_source(path))
    if path.suffix == ".safetensors":
        load_weights(path).fit(network())


def _packed(path: Path) -> None:
    dataset = open_dataset(path.parent)
    for video in dataset.videos:
        for kind in (video.frames, video.flows, video.masks):
            for picture in kind:
                if picture is not None:
                    read_picture(picture)


READERS: dict[str, Callable[[Path], object]] = {
    "video": _video,
    "picture": _picture,
    "animation": _video,
    "mask": _mask,
    "flow": read_flo,
    "recipe": read_recipe,
    "weights": _weights,
    "stream": StreamState.load,
    "packed": _packed,
}


def damaged(data: bytes, chance: random.Random, other: bytes = b"") -> bytes:
    """`data` spoilt in one of many ways; `other` is what may be spliced into it."""
    if chance.random() < 0.7 and (text := _as_json(data)) is not None:
        return text_of(_with_claim(text, chance))
    if data[8:9] == b"{" and chance.random() < 0.6:  # the header of a safetensors file
        length = struct.unpack("<Q", data[:8])[0]
        if (header := _as_json(data[8 : 8 + length])) is not None:
            new = text_of(_with_claim(header, chance))
            return struct.pack("<Q", len(new)) + new + data[8 + length :]
    spoilt = bytearray(data)
    where = chance.randrange(max(1, len(data)))
    way = chance.choice(("cut", "flip", "flips", "splice", "repeat", "number", "number", "zeros"))
    if way == "cut":
        del spoilt[where:]
    elif way == "flip":
        spoilt[where : where + 1] = bytes([chance.randrange(256)])
    elif way == "flips":
        for _ in range(chance.randrange(2, 64)):
            spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
    elif way == "splice":
        begin = chance.randrange(max(1, len(other)))
        spoilt[where : where + chance.choice((0, 64))] = other[begin : begin + chance.randrange(1, 4096)]
    elif way == "repeat":
        spoilt[where:where] = spoilt[where : where + chance.randrange(1, 4096)]
    elif way == "number":  # near the beginning or the end, where headers and indexes are
        place = chance.choice((where, chance.randrange(256), len(spoilt) - chance.randrange(1, 256)))
        kind = chance.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
        size = struct.calcsize(kind)
        place = min(max(0, place), max(0, len(spoilt) - size))
        spoilt[place : place + size] = struct.pack(kind, chance.choice(NUMBERS) % 2 ** (8 * size))
    else:
        spoilt[where : where + 512] = bytes(len(spoilt[where : where + 512]))
    return bytes(spoilt)


def _as_json(data: bytes) -> object:
    try:
        value = json.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict | list) else None


def text_of(value: object) -> bytes:
    """JSON, in which "DEEP" stands for lists in lists beyond what anybody reads."""
    return json.dumps(value).replace('"DEEP"', "[" * 50_000 + "]" * 50_000).encode()


def _with_claim(value: object, chance: random.Random) -> object:
    """Some part of a tree replaced, removed or doubled; strings of JSON are trees too."""
    if isinstance(value, str) and (inner := _as_json(value.encode())) is not None and chance.random() < 0.8:
        return text_of(_with_claim(inner, chance)).decode()
    if isinstance(value, dict | list) and value and chance.random() < 0.85:
        key = chance.choice(list(value)) if isinstance(value, dict) else chance.randrange(len(value))
        changed = value.copy()
        if chance.random() < 0.15:
            changed.pop(key)
        else:
            changed[key] = _with_claim(value[key], chance)
        return changed
    return chance.choice(
        (None, True, "", "x" * 1000, "../../etc", [], {}, [[]], 1.5, -1e300, "DEEP", *NUMBERS, float("nan"))
    )


def refused(reader: Callable[[Path], object], path: Path) -> bool:
    """Whether a reader refuses a file, which it does with an `InputError` and nothing else."""
    try:
        reader(path)
    except InputError:
        return True
    return False
