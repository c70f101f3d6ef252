"""Weights from one kind of file to another, what a file of weights is, and the network as exported programs."""

import json
import re
from collections import Counter
from pathlib import Path

from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.preprocessing import checked_size
from hmhi_jax.errors import InputError
from hmhi_jax.inference.export import write_export
from hmhi_jax.inference.segmenter import load_network
from hmhi_jax.interop.conversion import format_of, header_of, write_weights
from hmhi_jax.interop.flow_weights import find_flow_weights, identify_flow, is_flow_name, write_flow_weights
from hmhi_jax.interop.identify import Recognised, identify
from hmhi_jax.interop.shapes import not_finite
from hmhi_jax.interop.weight_sources import read_source


def convert(
    source: Path,
    target: Path | None,
    *,
    check: bool,
    names: str,
    dtype: str,
    backbone: str | None,
    memory_frames: int | None,
    input_size: tuple[int, int] | None,
    flow: str | None,
    every: int | None,
) -> bool:
    """Do what `hmhi convert` was asked for; the arguments are its options. Returns whether the weights fit."""
    if check:
        target = None
    elif target is None:
        raise InputError("no OUT given, expected a .safetensors, .npz or .pth file or a folder (or --check)")
    else:
        format_of(target)
    recipe = FlowRecipe.from_json(flow) if flow is not None else None
    weights = read_source(find_flow_weights(source) if not source.exists() and is_flow_name(source) else source)
    found = flow_network = identify_flow(weights) if backbone is None else None
    if found:
        options = {"--memory-frames": memory_frames, "--input-size": input_size, "--flow": flow, "--every": every}
        if given := [option for option, value in options.items() if value is not None]:
            raise InputError(f"{given[0]}: is for networks of segmentation, but {source} is {found.network}'s")
        what = f"optical flow: {found.network}"
    else:
        found = identify(weights, backbone)
        settings = ", ".join(f"{key} {value}" for key, value in found.model_arguments.items())
        what = f"{'HMHI-Net' if found.whole else 'an encoder alone'}: {settings}"
    _describe(found, what)
    if target is None:
        return bool(found.fit)
    if not (fit := found.fit):
        counts = ((fit.missing, "missing"), (fit.unused, "left over"), (fit.differing, "misshapen"))
        listed = ", ".join(f"{len(names)} {kind}" for names, kind in counts if names)
        raise InputError(
            f"{found.source.path}: does not fit {found.network} ({listed}, see above); nothing was written"
        )
    if flow_network:
        write_flow_weights(found, target, torch_names=names == "torch", dtype=dtype)
        print(f"wrote     {target}: {found.network}")
        return True
    if found.source.ours and found.whole and recipe is None and "flow" not in found.source.header:
        assumed = "raw DIS flow is assumed; if the network saw other pictures, say how they were made with --flow"
        print(f"warning   {found.source.path} does not say how its flow pictures were made: {assumed}")
    header = header_of(found, memory_frames=memory_frames, input_size=input_size, flow_recipe=recipe, every=every)
    write_weights(found, target, header, torch_names=names == "torch", dtype=dtype)
    print(f"wrote     {target}: {json.dumps(header['model'])}")
    return True


def _describe(found: Recognised, network: str) -> None:
    """Print what a source is, what it fits, what was dropped and what does not fit."""
    source = found.source
    millions = sum(array.size for entry, array in found.entries.items() if "running_" not in entry) / 1e6
    kinds = Counter(array.dtype.name for array in found.entries.values())
    where = f", under {source.wrapper!r}" if source.wrapper else ""
    where += f", prefix {source.prefix!r}" if source.prefix else ""
    print(f"file      {source.path}: {source.kind}{where}")
    print(f"names     of {found.publisher}")
    print(f"network   {network}")
    print(f"arrays    {len(found.entries)}, {millions:.2f} M parameters ({', '.join(sorted(kinds))})")
    if source.ignored:
        print(f"ignored   {', '.join(source.ignored)}")
    for reason, dropped in found.dropped.items():
        print(f"dropped   {len(dropped)}: {reason}: {', '.join(_grouped(dropped))}")
    for label, names in (("missing", found.fit.missing), ("left over", found.fit.unused)):
        if names:
            print(f"{label:9} {len(names)}: {', '.join(_grouped(names))}")
    if found.fit.differing:
        print(f"misshapen {len(found.fit.differing)}: {', '.join(found.fit.shapes())}")
    if broken := not_finite(source.entries):
        print(f"warning   {len(broken)} hold numbers that are not finite: {', '.join(_grouped(broken))}")
    print("fits      yes" if found.fit else f"fits      no: {found.network} expects otherwise")


def _grouped(names: list[str]) -> list[str]:
    """Names that differ in numbers alone as one, with `*` and how many they are."""
    groups = Counter(re.sub(r"\d+", "*", name) for name in names)
    single = {re.sub(r"\d+", "*", name): name for name in names}
    return [single[group] if count == 1 else f"{group} ({count})" for group, count in groups.items()]


def export(
    folder: Path,
    *,
    weights: str,
    size: tuple[int, int] | None,
    memory_frames: int | None,
    batch: int,
    dtype: str,
    platforms: list[str],
    beside: bool,
) -> None:
    """Do what `hmhi export` was asked for; the arguments are its options."""
    model, found = load_network(weights, memory_frames=memory_frames, dtype=dtype)
    arguments = {**found.model_arguments, "dtype": dtype, "memory_frames": model.memory_frames}
    write_export(
        folder, arguments, found.fit(model), size=checked_size(size or found.input_size), flow_recipe=found.flow_recipe,
        every=found.every, batch=batch, platforms=platforms, parameters_inside=not beside,
    )  # fmt: skip
    total = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
    print(f"{folder}: encode, start and step for {', '.join(platforms)}, {total:.0f} MiB")
