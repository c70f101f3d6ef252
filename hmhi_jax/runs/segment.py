"""Segmenting videos: which are still to do, what flow they have, and all of them side by side on the devices."""

import contextlib
import dataclasses
import errno
import hashlib
import io
import queue
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hmhi_jax import __version__, kept_programs
from hmhi_jax.complete_files import sha256_of
from hmhi_jax.data.ffmpeg import without_password
from hmhi_jax.data.flow_folder import FlowFolder, flow_fingerprint, flow_folder_of
from hmhi_jax.data.video import Video
from hmhi_jax.errors import InputError
from hmhi_jax.inference.clean_up import CleanUp
from hmhi_jax.inference.confidence import read_calibration
from hmhi_jax.inference.result_folder import Outputs, ResultFolder
from hmhi_jax.interop.weight_places import find_weights
from hmhi_jax.process import devices_here, enable_compilation_cache
from hmhi_jax.progress import Report, VideoProgress, doing
from hmhi_jax.runs.segment_options import (
    ESTIMATORS,
    Sources,
    flow_folders,
    flow_weights_file,
    place_outputs,
    read_flow_network,
)

if TYPE_CHECKING:  # not loaded where nothing is left to do
    from hmhi_jax.inference.segmenter import VideoSegmenter
    from hmhi_jax.inference.video_job import JobOptions

Tasks = list[tuple[Video, ResultFolder | None]]  # without a folder, masks go to standard output


def run(
    inputs: list[str],
    out: Path,
    *,
    weights: str,
    flow: str,
    flow_weights: str | None,
    flow_iterations: int | None,
    size: str | None,
    network_size: Any,
    threshold: float,
    refine: bool | None,
    soft: bool,
    overlay: bool | None,
    outputs: Outputs,
    memory_frames: int | None,
    dtype: str | None,
    every: int | None,
    backbone: str | None,
    max_frames: int | None,
    frame_rate: float | None,
    chunk: int | None,
    devices: int | None,
    save_every: int,
    resume: bool,
    overwrite: bool,
    clean_up: CleanUp,
    objects: int | None,
    nothing: bool,
    sources: Sources,
) -> int:
    """Do what `hmhi segment` was asked for; the arguments are its options, `network_size` what `size` means.

    Returns the exit code: 0 if every video came out, 1 if only some did, 2 if none. Raises `InputError` for what can be
    refused before the first frame.
    """
    found, mine = sources.find(inputs, frame_rate)
    videos = found.videos
    for kind, lines in (("note", found.notes), ("error", found.failures)):
        for line in lines:
            print(f"{kind}: {line}", file=sys.stderr)
    if not mine:
        print(f"shard {sources.shard}: has none of the {len(videos)} videos that can be segmented")
        return 1 if found.failures else 0
    piped = str(out) == "-"
    out, outputs = place_outputs(out, outputs, len(videos))
    overlay = outputs.file is None if overlay is None else overlay
    exported = (Path(weights).expanduser() / "export.json").is_file()
    source = Path(weights).expanduser() if exported else find_weights(weights)
    network = flow_weights_file(flow, flow_weights, flow_iterations)
    # It was measured with the flow that the weights were trained with, and does not hold for a flow network's.
    calibration = read_calibration(source) if nothing and not network else None
    asked = outputs.settings()
    settings = {
        "weights": _identity(source),
        "flow": flow if flow in ESTIMATORS else str(Path(flow).resolve()),
        **({"flow_network": {**_identity(network), "iterations": flow_iterations}} if network else {}),
        "size": size,
        "memory_frames": memory_frames,
        "dtype": dtype or (None if exported else "tensorfloat32"),
        "every": every,
        "threshold": threshold,
        "refine": refine,
        "soft": soft,
        "overlay": overlay,
        **({"outputs": asked} if asked else {}),
        "max_frames": max_frames,
        "frame_rate": frame_rate,
        "chunk": chunk,
        "clean_up": dataclasses.asdict(clean_up),
        "objects": objects,
        "calibration": calibration and dataclasses.asdict(calibration),
        **sources.settings(),
        "version": __version__,
    }
    if piped and len(mine) != 1:
        raise InputError(f"--out -: takes the masks of one video, but there are {len(mine)}; name one")
    if piped and (asked or objects):
        raise InputError("--out -: takes masks alone; name a folder for cut-outs, objects, numbers and annotations")
    tasks: Tasks = [(mine[0], None)]
    if not piped:
        tasks = _plan(videos, mine, inputs, out, settings, outputs, overwrite=overwrite)
    exit_code = 1 if found.failures else 0
    if not tasks and backbone is None:  # else the weights are looked at even where nothing is left to do
        return exit_code

    from hmhi_jax.inference.masks import Postprocessing
    from hmhi_jax.inference.segmenter import VideoSegmenter
    from hmhi_jax.inference.video_job import JobOptions, standard_output

    enable_compilation_cache()
    doing("reading weights")
    any_live = any(video.live for video, _ in tasks)
    segmenter = VideoSegmenter.load(
        source, size=network_size, memory_frames=memory_frames, dtype=settings["dtype"], every=every,
        chunk=1 if any_live else chunk, backbone=backbone,
    )  # fmt: skip
    if not tasks:
        return exit_code
    if network:
        segmenter.flow_network = read_flow_network(network, flow_iterations, segmenter.flow_recipe, weights)
    flows = {}
    if flow not in ESTIMATORS:
        to_do = [video for video, _ in tasks]
        flows = flow_folders(flow, to_do, len(videos) == 1, segmenter.flow_recipe, weights, max_frames)
    recipe = segmenter.flow_network.recipe if segmenter.flow_network else segmenter.flow_recipe
    masks = Postprocessing(clean_up, objects, calibration)
    options = JobOptions(
        threshold, soft, overlay, save_every, resume, max_frames, masks, outputs, sources.detect_cuts, refine
    )
    entries = {
        "command": shlex.join(["hmhi", *map(without_password, sys.argv[1:])]),
        "settings": {**settings, "flow_recipe": recipe.fields()},
    }
    # As many lanes as the videos of the command call for, not those that are left: so it goes on exactly.
    lanes = 1 if any_live else min(segmenter.lanes_per_device, len(mine))
    try:
        with standard_output() if piped else contextlib.nullcontext() as pipe:
            outcomes = _run(tasks, segmenter, lanes, options, flows, entries, devices, pipe)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"{out} has the masks until then" if any_live and not piped else "") from error
    if "failed" not in outcomes:
        return exit_code
    return 1 if len(mine) - len(tasks) + outcomes.count(None) else 2


def _plan(
    videos: list[Video],
    mine: list[Video],
    inputs: list[str],
    out: Path,
    settings: dict[str, Any],
    outputs: Outputs,
    *,
    overwrite: bool,
) -> Tasks:
    """Which of the videos that are `mine` are still to do, and where each goes. All that can be refused now is."""
    found_inside = Path(inputs[0]).is_dir() and Path(videos[0].path) != Path(inputs[0])
    alone = len(videos) == 1 and (outputs.file is not None or not found_inside)
    kinds = ("masks", *(kind for kind in ("soft", "objects") if settings[kind]), *outputs.pictures())
    pictures = tuple(dict.fromkeys(kinds))  # numbered objects are label pictures, which may be asked for as well
    tasks: Tasks = []
    for video in mine:
        identity = {"input": video.fingerprint(), **settings}
        if settings["flow"] not in ESTIMATORS:
            identity["flow"] = flow_fingerprint(flow_folder_of(settings["flow"], video.name, len(videos) == 1))
        place = out if alone else out / video.name
        cutout = outputs.file or (place / f"cutout.{outputs.cutout}" if outputs.cutout else None)
        folder = ResultFolder(place, identity, pictures, cutout)
        if overwrite and folder.is_ours():
            folder.clear()
        status = folder.status()
        if status == "finished" and not video.live:
            summary = folder.read_summary()
            print(f"{video.path}: finished before, {summary.get('frames')} frames in {folder.path}")
            continue
        if status != "new" and video.live:
            raise InputError(f"{folder.path}: holds what a camera saw before; choose another folder, or --overwrite")
        folder.check_writable()
        tasks.append((video, folder))
    return tasks


def _run(
    tasks: Tasks,
    segmenter: "VideoSegmenter",
    lanes: int,
    options: "JobOptions",
    flows: dict[str, FlowFolder],
    entries: dict[str, Any],
    devices: int | None,
    pipe: io.RawIOBase | None,
) -> list[str | None]:
    """Do the tasks, several at once where there are several devices or a device does well with several `lanes`.

    Returns, of each task, None where its video came out, else "failed" or "stopped".
    """
    import jax

    from hmhi_jax.inference.lanes import Lanes
    from hmhi_jax.inference.segmenter import VideoSegmenter
    from hmhi_jax.inference.video_job import Interrupted, segment_video, write_masks

    Place = tuple[VideoSegmenter, dict[tuple[int, int], Lanes]]
    sizes = {segmenter.network_size(video.size) for video, _ in tasks}
    places: queue.Queue[Place] = queue.Queue()
    for device in devices_here(devices)[: len(tasks)]:
        own = segmenter if device == segmenter.device else segmenter.to(device)
        # Of all videos that the network sees at one size; none where every video has the device to itself.
        shared = {size: own.lanes(lanes_per_device=lanes) for size in sizes} if lanes > 1 else {}
        # One video more than there are lanes is read, so that no lane waits for its first frames.
        for _ in range(lanes + 1 if lanes > 1 else 1):
            places.put((own, shared))
    stop = threading.Event()

    def work(video: Video, folder: ResultFolder | None) -> str | None:
        if stop.is_set():
            return "stopped"
        place = places.get()
        try:
            wanted = [number for number in (video.frame_count, options.most_frames) if number]
            report = progress.video(video.name, min(wanted) if wanted else None)
            notes = segmented(place, video, folder, report)
        except InputError as error:
            progress.print(f"error: {error}")
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT):
                stop.set()  # the other videos would meet the same disk
            return "failed"
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            progress.print(
                f"error: {video.path}: takes more memory than there is ({error}); "
                "choose a smaller --size, --memory-frames or --chunk"
            )
            return "failed"
        except Interrupted:
            return "stopped"
        finally:
            places.put(place)
        for note in notes:
            progress.print(f"{'error' if note == video.failure else 'note'}: {note}")
        return "failed" if video.failure else None

    def segmented(place: Place, video: Video, folder: ResultFolder | None, report: Report) -> list[str]:
        """What there is to note of a video, once it is done."""
        own, shared = place
        job = dataclasses.replace(options, save_every=0) if video.live else options
        flow = flows.get(video.name)
        if folder is None:
            write_masks(own, video, pipe, job, flow=flow, on_progress=report, stop=stop)
            return video.notes
        height, width = own.network_size(video.size)
        with kept_programs.watched(lambda kept: report(None, f"compiling for {height} x {width}{kept}")):
            summary = segment_video(
                own, video, folder, job, flow=flow, entries=entries, on_progress=report, stop=stop,
                lanes=shared.get((height, width)),
            )  # fmt: skip
        progress.print_result(folder, summary)
        return summary["notes"]

    with VideoProgress() as progress, _first_ctrl_c_ends([video for video, _ in tasks if video.live], stop):
        if places.qsize() == 1:
            return [work(*task) for task in tasks]
        with ThreadPoolExecutor(places.qsize()) as pool:
            running = {pool.submit(work, *task) for task in tasks}
            outcomes = []
            try:
                while running:  # with a limit, so that Ctrl-C gets through on every system
                    done, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                    outcomes += [future.result() for future in done]
            except BaseException:
                stop.set()
                raise
            return outcomes


@contextlib.contextmanager
def _first_ctrl_c_ends(live: list[Video], stop: threading.Event) -> Iterator[None]:
    """While a camera runs, the first Ctrl-C ends its video in good order; the second one is an interruption."""
    if not live or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def end(*_: object) -> None:
        stop.set()
        for video in live:
            video.end()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _identity(weights: Path) -> dict[str, str]:
    """Of a file of weights, or a folder (an export, a checkpoint), by its contents."""
    files = sorted(path for path in weights.rglob("*") if path.is_file()) if weights.is_dir() else [weights]
    digests = bytes.fromhex("".join(map(sha256_of, files)))
    return {"path": str(weights), "sha256": hashlib.sha256(digests).hexdigest()}
