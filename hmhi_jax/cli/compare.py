"""`hmhi compare`: the authors' release and ours on the same frames, map by map, with a verdict."""

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np

    from hmhi_jax.data.flow import FlowRecipe


def compare(
    release: Annotated[Path, typer.Option(metavar="CLONE", help="Clone of the authors' release.")],
    input: Annotated[str, typer.Option(metavar="VIDEO", help="A video file or a folder of frames.")],
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="C", help="Weights of both sides; drawn from a seed if not given.")
    ] = None,
    python: Annotated[str, typer.Option(help="A Python with torch and numpy.")] = "python3",
    device: Annotated[str, typer.Option(help="PyTorch's device for the release: cpu or cuda.")] = "cpu",
    backbone: Annotated[str, typer.Option(help="Without a checkpoint: the network's backbone.")] = "mit_b1",
    seed: Annotated[int, typer.Option(help="Without a checkpoint: seed of the weights.")] = 0,
    size: Annotated[int, typer.Option(min=32, help="Side of the square both sides work at.")] = 512,
    frames: Annotated[int, typer.Option(min=1, help="How many frames.")] = 8,
    memory_frames: Annotated[int | None, typer.Option(min=1, help="Capacity of the memory (3).")] = None,
    train: Annotated[int, typer.Option(min=0, metavar="N", help="Compare N training steps instead.")] = 0,
    clip_frames: Annotated[int, typer.Option(min=2, help="With --train: frames of a clip.")] = 3,
    tolerance: Annotated[float, typer.Option(min=0, help="Largest deviation, relative to a map's scale.")] = 1e-3,
    flow: Annotated[str | None, typer.Option(help="Flow recipe as JSON (the release's: raw DIS flow).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for report.json and report.html.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep every map of both sides in OUT/arrays.")] = False,
) -> None:
    """Run the authors' release and this package on the same frames with the same weights, and say how far they differ.

    The release runs from your clone as it is, in a Python of its own that has torch; what it imports and your machine
    lacks is lent at run time. Exit code 1 if a map leaves the tolerance, naming the first that does.
    """
    import json

    from hmhi_jax.data.flow import FlowRecipe
    from hmhi_jax.errors import InputError
    from hmhi_jax.models import build_model
    from hmhi_jax.tools.compare import sides as compare_sides

    if size % 32:
        raise InputError(f"--size is {size}, expected a multiple of 32")
    recipe = FlowRecipe.from_json(flow) if flow is not None else None
    arguments, weights, recipe = _weights(checkpoint, backbone, memory_frames, recipe)
    compare_sides.check_release(release.expanduser().absolute(), python, device, arguments)
    folder = (out or Path(f"compare-{arguments['backbone']}{'-train' if train else ''}")).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: no folder can be made there ({error.strerror})") from None
    model = build_model(**arguments)
    switches = ("backbone", "memory_frames", "shallow_memory", "deep_memory", "sgim", "plam")
    try:
        with tempfile.TemporaryDirectory(prefix=".arrays-", dir=folder) as work:
            place = folder / "arrays" if keep else Path(work)
            place.mkdir(exist_ok=True)
            weights_path = _write_weights(model, weights, checkpoint, place, seed)
            request = {
                "clone": str(release.expanduser().absolute()),
                "model": {name: getattr(model, name) for name in switches},
                "device": device,
                "weights": str(weights_path),
                "clip": str(place / "clip.npz"),
                "mode": "train" if train else "infer",
                "steps": train,
                "batch": 1,
                "learning_rate": 6e-5,
            }
            pictures = _write_clip(place / "clip.npz", input, size, frames, recipe, clip_frames if train else 0)
            sides = []
            for name, command in (
                ("release", compare_sides.release_command(python)),
                ("ours", compare_sides.our_command()),
            ):
                with _working(f"{name}: {train} training steps" if train else f"{name}: {len(pictures)} frames"):
                    # Our side takes every argument, the release's only its switches.
                    own = {**request, "model": _plain(arguments)} if name == "ours" else request
                    sides.append(compare_sides.run_side(command, name, place, own, folder / f"{name}.log"))
            facts = {
                "video": Path(input).name,
                "frames": len(pictures),
                "size": size,
                "backbone": arguments["backbone"],
                "memory_frames": model.memory_frames,
                "weights": checkpoint.name if checkpoint else f"recipe, seed {seed}",
                "flow": json.loads(recipe.to_json()),
                "tolerance": tolerance,
            }
            from hmhi_jax.tools.compare.report import report_inference, report_training

            report = report_training if train else report_inference
            good = report(folder, facts, *sides, pictures, weights_path)
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # if nothing came of it
    print(f"wrote {folder / 'report.json'} and {folder / 'report.html'}")
    if not good:
        raise typer.Exit(1)


def _weights(
    checkpoint: Path | None, backbone: str, memory_frames: int | None, recipe: "FlowRecipe | None"
) -> tuple[dict[str, Any], Any, "FlowRecipe"]:
    """Arguments of the network, its variables (None: drawn later), the flow recipe."""
    import json

    from hmhi_jax.data.flow import FlowRecipe
    from hmhi_jax.errors import InputError
    from hmhi_jax.interop.conversion import variables_of
    from hmhi_jax.interop.identify import identify
    from hmhi_jax.interop.weight_sources import read_source

    if checkpoint is None:
        return {"backbone": backbone, "memory_frames": memory_frames or 3}, None, recipe or FlowRecipe()
    found = identify(read_source(checkpoint))
    if not found.whole:
        raise InputError(f"{checkpoint}: an encoder alone, expected weights of a whole network")
    arguments = dict(found.model_arguments)
    if memory_frames is not None:
        arguments["memory_frames"] = memory_frames
    header = found.source.header
    stored = FlowRecipe.from_json(json.dumps(header["flow"])) if "flow" in header else FlowRecipe()
    return arguments, variables_of(found), recipe or stored


def _write_weights(model: Any, variables: Any, checkpoint: Path | None, place: Path, seed: int) -> Path:
    """Weights as both sides read them: the release's own file where there is one, else one written in its layout."""
    from hmhi_jax.interop.torch_checkpoint_writer import write_torch_checkpoint
    from hmhi_jax.interop.torch_weights import expected_entries, from_torch, to_torch
    from hmhi_jax.interop.weight_sources import read_source
    from hmhi_jax.tools.compare.recipe_weights import recipe_state_dict

    if checkpoint is not None and checkpoint.is_file():
        source = read_source(checkpoint)
        if source.wrapper == "network":
            return checkpoint.absolute()
    if variables is None:
        shapes = {name: entry.shape for name, entry in expected_entries(model).items()}
        variables = from_torch(model, recipe_state_dict(shapes, seed))
    path = place / "weights.pth"
    write_torch_checkpoint(path, {"network": to_torch(model, variables)})
    return path


def _write_clip(
    path: Path, video: str, size: int, count: int, recipe: "FlowRecipe", clip_frames: int
) -> "list[np.ndarray]":
    """Frames and flow pictures as the network takes them, written for both sides; returns the frames, uint8.

    With `clip_frames` they are cut into clips of that length, with a made-up target for each frame: a disk that moves,
    since a comparison of training steps needs some mask and no particular one.
    """
    from itertools import islice

    import numpy as np

    from hmhi_jax.data.flow import neighbours_of
    from hmhi_jax.data.open_videos import open_videos
    from hmhi_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, resize_picture
    from hmhi_jax.errors import InputError
    from hmhi_jax.inference.learned_flow import flow_source, picture_from
    from hmhi_jax.tools.compare.sides import write_clip

    (video_input,) = open_videos([video])[:1]
    wanted = max(count, clip_frames)
    taken = [frame.picture for frame in islice(video_input.frames(), wanted + 1)]
    if len(taken) < 2:
        raise InputError(f"{video}: has {len(taken)} frames, expected at least 2 (flow goes from one to the next)")
    rgb = taken[:wanted]
    flows, source = [], flow_source(recipe, None)
    for t in range(len(rgb)):
        other, opposite = neighbours_of(t, len(taken), recipe)
        flows.append(picture_from(source, taken[t], taken[other], None if opposite is None else taken[opposite]))

    def ready(pictures: list[np.ndarray]) -> np.ndarray:
        small = np.stack([resize_picture(picture, (size, size)) for picture in pictures])
        return (small.astype(np.float32) / 255 - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)

    arrays = {"frames": ready(rgb)[None], "flows": ready(flows)[None]}
    if clip_frames:
        clips = len(rgb) // clip_frames
        if not clips:
            raise InputError(f"{video}: has {len(rgb)} frames, expected {clip_frames} for a clip")
        cut = clips * clip_frames
        arrays = {k: v[0, :cut].reshape(clips, clip_frames, *v.shape[2:]) for k, v in arrays.items()}
        b, t, y, x = np.ogrid[:clips, :clip_frames, :size, :size]
        centre = (size * (0.45 + 0.02 * t), size * (0.4 + 0.03 * t + 0.02 * b))
        disk = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (size / 4) ** 2
        arrays["masks"] = disk[..., None].astype(np.float32)
    write_clip(path, **arrays)
    return rgb


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is None or isinstance(value, bool | int | str)}


def _working(what: str):
    from rich.console import Console

    return Console(stderr=True).status(what)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare")(compare)
