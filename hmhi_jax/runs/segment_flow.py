"""Flow of the videos that are segmented: estimated as the weights want it, by a flow network, or read from folders."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hmhi_jax.errors import InputError

if TYPE_CHECKING:
    from hmhi_jax.data.flow import FlowRecipe
    from hmhi_jax.data.flow_folder import FlowFolder
    from hmhi_jax.data.video import Video
    from hmhi_jax.inference.learned_flow import LearnedFlow
    from hmhi_jax.inference.result_folder import ResultFolder


ESTIMATORS = ("dis", "raft")  # what `--flow` may be besides a folder
# A video file may hold fewer frames than it promises; what is missing among the first is told when it is reached.
_ENOUGH_FLOW = 0.95


def flow_weights_file(flow: str, weights: str | None, iterations: int | None) -> Path | None:
    """Which file of weights `--flow raft` takes; None for other flow, with which its options are refused."""
    if flow != "raft":
        for option, value in (("--flow-weights", weights), ("--flow-iterations", iterations)):
            if value is not None:
                raise InputError(f"{option} {value}: is for '--flow raft', but flow is {flow!r}")
        return None
    from hmhi_jax.interop.flow_weights import find_flow_weights

    return find_flow_weights(weights or "raft_large")


def read_flow_network(path: Path, iterations: int | None, recipe: "FlowRecipe", weights: str) -> "LearnedFlow":
    """The flow network of `--flow raft`. Warns where the weights were trained with other flow."""
    from hmhi_jax.inference.learned_flow import LearnedFlow

    network = LearnedFlow.load(path, recipe, iterations=iterations)
    if recipe.estimator != "raft":
        print(
            f"warning: {weights} wants flow pictures of the estimator {recipe.estimator}, not raft; masks may be worse",
            file=sys.stderr,
        )
    return network


def flow_folders(
    flow: str,
    tasks: "list[tuple[Video, ResultFolder]]",
    alone: bool,
    recipe: "FlowRecipe",
    weights: str,
    max_frames: int | None,
) -> "dict[str, FlowFolder]":
    """Flow of each video. Warns of pictures that are known to be made otherwise than the weights want them."""
    from hmhi_jax.data.flow_folder import flow_folder_of

    folders, differing = {}, {}
    for video, _ in tasks:
        folder = _flow_folder(flow_folder_of(flow, video.name, alone), video, recipe, max_frames)
        folders[video.name] = folder
        differing.setdefault(folder.difference, []).append(str(folder.folder))
    for difference, alike in differing.items():
        if difference:
            print(
                f"warning: {alike[0]}{f' and {len(alike) - 1} more' if alike[1:] else ''}: flow pictures made "
                f"otherwise than {weights} wants them ({difference}), so masks may be far off; make them again with "
                f"'hmhi flow DATASET --recipe {weights} --overwrite', or take '--flow dis'",
                file=sys.stderr,
            )
    return folders


def _flow_folder(path: Path, video: "Video", recipe: "FlowRecipe", max_frames: int | None) -> "FlowFolder":
    """Flow of one video, refused if it is known that there is too little of it."""
    from hmhi_jax.data.flow_folder import FlowFolder

    names = video.frame_names()
    if names is not None:
        return FlowFolder(path, recipe, names[:max_frames])
    folder = FlowFolder(path, recipe)
    wanted = min((number for number in (video.frame_count, max_frames) if number), default=0)
    if len(folder) < _ENOUGH_FLOW * wanted - 1:
        raise InputError(
            f"{path}: holds {len(folder)} flow pictures, expected one for each of about {wanted} frames of "
            f"{video.path}; make the others, or stop before with --max-frames"
        )
    return folder
