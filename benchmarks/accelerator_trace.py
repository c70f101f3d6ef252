"""Traces for `benchmarks/accelerator.py`: the dearest kernels, and time by part of the network."""

import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from jax.profiler import ProfileData


def read_trace(folder: Path, repeats: int) -> dict[str, Any]:
    (file,) = sorted(folder.rglob("*.xplane.pb"))[-1:]
    kernels: dict[str, list[float]] = defaultdict(list)
    parts: Counter = Counter()
    count = 0
    for plane in ProfileData.from_file(str(file)).planes:
        if "GPU" not in plane.name and "TPU" not in plane.name:
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                stats = dict(event.stats)
                where = str(stats.get("name") or stats.get("tf_op") or stats.get("hlo_op") or "")
                kernels[event.name].append(event.duration_ns / 1e6)
                parts[_part_of(where)] += event.duration_ns / 1e6
                count += 1
    dearest = sorted(kernels.items(), key=lambda item: -sum(item[1]))[:20]
    return {
        "kernels": count / repeats,
        "busy ms": sum(parts.values()) / repeats,
        "by part, ms": {name: round(value / repeats, 4) for name, value in parts.most_common(16)},
        "dearest": {name[:90]: f"{sum(taken) / repeats:.4f} ms in {len(taken) / repeats:g}" for name, taken in dearest},
    }


def _part_of(where: str) -> str:
    """The module that an operation's name ("jit(f)/HMHINet.step/.../shallow_bank.read/...") lies in."""
    known = ("sgim_module", "plam_module", "decoder", "encoder")
    for bank in ("shallow_bank", "deep_bank"):
        if bank in where:
            return f"{bank}, {'read' if '.read' in where else 'write and encode'}"
    for name in known:
        if f"{name}" in where:
            stage = re.search(r"stage\d", where)
            return f"{name} {stage[0]}" if stage and name == "encoder" else name
    return "the rest" if where else "without a name"
