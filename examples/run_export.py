"""Run an export of `hmhi export` with JAX, NumPy and Pillow alone: no model code, no Flax.

    hmhi export net --weights tiny
    hmhi flow DATASET --recipe net --out FLOWS
    python examples/run_export.py net FRAMES FLOWS/VIDEO MASKS

FRAMES and FLOWS/VIDEO are folders of pictures in step (a flow picture per frame); MASKS is written.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from PIL import Image

network, frames, flows, masks = map(Path, sys.argv[1:5])
header = json.loads((network / "export.json").read_text())
height, width = header["input_size"]
parameters = ()
if header["parameters"] == "beside":
    from safetensors.numpy import load_file

    parameters = (jax.device_put(load_file(network / "weights.safetensors")),)
encode, start, step = (
    jax.jit(jax.export.deserialize(bytearray((network / f"{name}.stablehlo").read_bytes())).call)
    for name in ("encode", "start", "step")
)


def picture(path: Path) -> np.ndarray:
    """uint8 [1, height, width, 3]"""
    return np.asarray(Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BILINEAR))[None]


def pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png"))


masks.mkdir(parents=True, exist_ok=True)
memory = None
for frame, flow in zip(pictures(frames), pictures(flows), strict=True):
    features = encode(*parameters, picture(frame), picture(flow))
    memory, logits = start(*parameters, features) if memory is None else step(*parameters, memory, features)
    mask = Image.fromarray(np.asarray(logits)[0, :, :, 0]).resize(Image.open(frame).size, Image.Resampling.BILINEAR)
    Image.fromarray((np.asarray(mask) > 0).astype(np.uint8) * 255).save(masks / f"{frame.stem}.png")
