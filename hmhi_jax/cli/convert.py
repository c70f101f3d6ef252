"""`hmhi convert`: weights from one kind of file to another, and what a file of weights is."""

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hmhi_jax.errors import InputError

if TYPE_CHECKING:
    from hmhi_jax.interop.flow_files import FlowSource
    from hmhi_jax.interop.identify import Identity
    from hmhi_jax.interop.torch_weights import Fit


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN", help="A .pth, .safetensors, .npz, a checkpoint folder, a training run or a shipped name."
        ),
    ],
    target: Annotated[
        Path | None,
        typer.Argument(metavar="OUT", help=".safetensors, .npz, .pth (the release's layout), or a folder (Orbax)."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what IN is and what it fits.")] = False,
    names: Annotated[str, typer.Option(help="Names in .safetensors and .npz: ours, or torch.")] = "ours",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    backbone: Annotated[str | None, typer.Option(help="The network's backbone; recognised if not given.")] = None,
    memory_frames: Annotated[
        int | None, typer.Option(min=1, help="Capacity of the memory, which weights do not show (3).")
    ] = None,
    input_size: Annotated[
        tuple[int, int] | None, typer.Option(help="Height and width the weights were trained for (512 512).")
    ] = None,
    flow: Annotated[str | None, typer.Option(help="Flow recipe as JSON (the release's: raw DIS flow).")] = None,
) -> None:
    """Convert weights: the release's checkpoints, ImageNet encoders under the names people have them, RAFT's, and ours.

    Reading a .pth needs no PyTorch and executes nothing in it. Whatever has no place in the network is dropped by rule
    and listed; anything else missing or left over is an error.
    """
    import json

    from hmhi_jax.data.flow import FlowRecipe
    from hmhi_jax.interop.conversion import format_of, header_of, write_weights
    from hmhi_jax.interop.flow_files import find_flow_weights, identify_flow, is_flow_name
    from hmhi_jax.interop.identify import identify
    from hmhi_jax.interop.weight_sources import read_source

    if names not in ("ours", "torch"):
        raise InputError(f"--names is {names!r}, expected ours or torch")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise InputError(f"--dtype is {dtype!r}, expected float32, bfloat16 or float16")
    if target is None and not check:
        raise InputError("no OUT given, expected a .safetensors, .npz or .pth file or a folder (or --check)")
    if target is not None and not check:
        format_of(target)
    if input_size is not None and any(side < 32 or side % 32 for side in input_size):
        raise InputError(f"--input-size is {input_size[0]} {input_size[1]}, expected two multiples of 32")
    recipe = FlowRecipe.from_json(flow) if flow is not None else None
    weights = read_source(find_flow_weights(source) if not source.exists() and is_flow_name(source) else source)
    if backbone is None and (flow_network := identify_flow(weights)):
        options = {"--memory-frames": memory_frames, "--input-size": input_size, "--flow": flow}
        if given := [option for option, value in options.items() if value is not None]:
            raise InputError(f"{given[0]}: is for networks of segmentation, but {source} is {flow_network.network}'s")
        _convert_flow(flow_network, target, check=check, torch_names=names == "torch", dtype=dtype)
        return
    found = identify(weights, backbone)
    describe(found)
    if check:
        raise typer.Exit(0 if found.fit else 1)
    assert target is not None
    _require_fit(source, found.backbone, found.fit)
    if found.source.ours and found.whole and recipe is None and "flow" not in found.source.header:
        assumed = "raw DIS flow is assumed; if the network saw other pictures, say how they were made with --flow"
        print(f"warning   {found.source.path} does not say how its flow pictures were made: {assumed}")
    header = header_of(found, memory_frames=memory_frames, input_size=input_size, flow_recipe=recipe)
    write_weights(found, target, header, torch_names=names == "torch", dtype=dtype)
    print(f"wrote     {target}: {json.dumps(header['model'])}")


def _convert_flow(found: "FlowSource", target: Path | None, *, check: bool, torch_names: bool, dtype: str) -> None:
    """The same for a network of optical flow."""
    from hmhi_jax.interop.flow_files import write_flow_weights

    _describe(found, f"optical flow: {found.network}", found.network)
    if check:
        raise typer.Exit(0 if found.fit else 1)
    assert target is not None
    _require_fit(found.source.path, found.network, found.fit)
    write_flow_weights(found, target, torch_names=torch_names, dtype=dtype)
    print(f"wrote     {target}: {found.network}")


def _require_fit(source: Path, network: str, fit: "Fit") -> None:
    if not fit:
        counts = ((fit.missing, "missing"), (fit.unused, "left over"), (fit.misshapen, "misshapen"))
        listed = ", ".join(f"{len(names)} {kind}" for names, kind in counts if names)
        raise InputError(f"{source}: does not fit {network} ({listed}, see above); nothing was written")


def describe(found: "Identity") -> None:
    """Print what a source is, what it fits, what was dropped and what does not fit."""
    settings = ", ".join(f"{key} {value}" for key, value in found.model_arguments.items())
    _describe(found, f"{'HMHI-Net' if found.whole else 'an encoder alone'}: {settings}", found.backbone)


def _describe(found: "Identity | FlowSource", network: str, name: str) -> None:
    source = found.source
    arrays = found.entries.values()
    millions = sum(array.size for entry, array in found.entries.items() if "running_" not in entry) / 1e6
    kinds = Counter(array.dtype.name for array in arrays)
    where = "".join(
        (
            f", under {source.wrapper!r}" if source.wrapper else "",
            f", prefix {source.prefix!r}" if source.prefix else "",
        )
    )
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
    if found.fit.misshapen:
        print(f"misshapen {len(found.fit.misshapen)}: {', '.join(found.fit.misshapen)}")
    print("fits      yes" if found.fit else f"fits      no: {name} expects otherwise")


def _grouped(names: list[str]) -> list[str]:
    """Names that differ in numbers alone as one, with `*` and how many they are."""
    groups = Counter(re.sub(r"\d+", "*", name) for name in names)
    single = {re.sub(r"\d+", "*", name): name for name in names}
    return [single[group] if count == 1 else f"{group} ({count})" for group, count in groups.items()]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("convert")(convert)
