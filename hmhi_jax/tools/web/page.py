"""The page: what a visitor sees, and what each control does."""

import html
import itertools
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from hmhi_jax.errors import InputError, first_of
from hmhi_jax.inference.clean_up import CleanUp
from hmhi_jax.tools.web.visitor import SIZES, Limits, Visitor, calibration_of
from hmhi_jax.tools.web.work import PRODUCTS, VIEWS, Job, Look

CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_STEADY = [("not", 0.0), ("some", 0.6), ("more", 0.8)]  # shares of the frame before; less than a half changes no mask
_EVERY = 0.5  # seconds between two looks at what is being done
_CAMERA = {"video": {"width": {"ideal": 1280}, "height": {"ideal": 720}}}  # larger ones cost a browser frames
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}


class Page:
    """Builds the page and answers its controls; each visitor has a `Visitor` of their own."""

    def __init__(self, home: Path, weights: str, limits: Limits) -> None:
        """`home` is the folder that visitors' folders are made in."""
        self._home, self._weights, self._limits = home, weights, limits
        self._visitors: dict[str, Visitor] = {}
        self.blocks = self._build().queue(default_concurrency_limit=None)

    def close(self) -> None:
        """Stop everybody's work and delete everybody's files."""
        for session in list(self._visitors):
            self._visitors.pop(session).close()

    def _build(self) -> gr.Blocks:
        with gr.Blocks(title="hmhi", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
            gr.HTML(
                "<h1>Find what moves, cut it out</h1><p>Nobody marks anything. Your video stays on this computer and "
                "is deleted when you close the page.</p>",
                elem_id="head",
            )
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    with gr.Tab("A file"):
                        self._file = gr.File(show_label=False, height=150, elem_id="file")
                    with gr.Tab("Record"):
                        self._camera = gr.Video(
                            show_label=False, sources=["webcam"], include_audio=True, height=260,
                            webcam_options=gr.WebcamOptions(mirror=False, constraints=_CAMERA), elem_id="camera",
                        )  # fmt: skip
                    limits = f"{self._limits.megabytes} MB and {self._limits.frames} frames"
                    gr.HTML(f"A video, or a zip of a folder of frames; at most {limits}.", elem_classes="note")
                    size = gr.Radio(SIZES, value=SIZES[0], label="Size the network works at", elem_id="size")
                    self._start = gr.Button("Find the object", variant="primary", interactive=False, elem_id="find")
                    self._stop = gr.Button("Stop", visible=False, elem_id="stop")
                with gr.Column(scale=5, min_width=300):
                    self._status = gr.HTML(_line("Drop a video to begin."), elem_id="status")
                    self._slider = gr.ImageSlider(
                        show_label=False, type="filepath", max_height=560, buttons=["fullscreen"], interactive=False,
                        slider_position=25, elem_id="slider",
                    )  # fmt: skip
                    with gr.Column(visible=False) as self._after:
                        self._number = gr.Slider(0, 1, 0, step=1, label="Frame", buttons=[], elem_id="number")
                        view = gr.Radio(VIEWS, value=VIEWS[0], label="Right of the line", elem_id="view")
                        with gr.Row():
                            threshold = gr.Slider(0.05, 0.95, 0.5, step=0.05, label="Threshold", elem_id="threshold")
                            grow = gr.Slider(-20, 20, 0, step=1, label="Grow, shrink (px)")
                            feather = gr.Slider(0, 20, 0, step=1, label="Soft edge (px)")
                        with gr.Row():
                            smallest = gr.Slider(0, 5, 0, step=0.1, label="Drop parts below (% of the picture)")
                            holes = gr.Slider(0, 5, 0, step=0.1, label="Fill holes up to (% of the picture)")
                        with gr.Row():
                            steady = gr.Radio(_STEADY, value=0.0, label="Damp flicker", elem_id="steady")
                            objects = gr.Slider(0, 10, 0, step=1, label="Number so many objects", elem_id="objects")
                        nothing = gr.Checkbox(
                            True, label="Empty frames in which nothing moves by itself", elem_id="nothing",
                            visible=calibration_of(self._weights) is not None,
                        )  # fmt: skip
                        gr.HTML(
                            "Download: pictures come as a zip; WebM is for browsers, MOV (ProRes 4444) for editors.",
                            elem_classes="note",
                        )
                        with gr.Row(elem_id="products"):
                            makers = [gr.Button(kind, size="md") for kind in PRODUCTS]
                        self._ready = gr.DownloadButton("Save", visible=False, variant="primary", elem_id="ready")

            look = [threshold, smallest, holes, grow, feather, steady, objects, nothing]
            shown = [self._number, view, *look]
            told = [self._status, self._slider, self._after, self._number, self._start, self._stop, self._ready]
            for source, event in ((self._file, self._file.upload), (self._camera, self._camera.stop_recording)):
                event(self._open, source, [self._file, *told], **_QUIET)
            self._start.click(self._find, [size, *shown], told, **_QUIET)
            self._stop.click(self._halt, None, None, queue=False, **_QUIET)
            # A slider that is set back by its button has changed, but not by input.
            for event in (self._number.input, view.input, *(control.change for control in look)):
                event(self._show, shown, told, trigger_mode="always_last", **_QUIET)
            for button in makers:
                made = button.click(self._make, [button, *look], told, **_QUIET)
                made.then(None, js="() => { setTimeout(() => document.querySelector('#ready')?.click(), 300) }")
            blocks.unload(self._leave)
        return blocks

    def _visitor(self, request: gr.Request) -> Visitor:
        made = Visitor(self._home, self._weights, self._limits)
        return self._visitors.setdefault(request.session_hash or "", made)

    def _open(self, request: gr.Request, upload: str | None) -> Iterator[dict[Any, Any]]:
        """A file came: show its first frame."""
        if upload is None:
            return
        visitor = self._visitor(request)
        hidden = gr.update(visible=False)
        yield {self._status: _line("reading"), self._after: hidden, self._ready: hidden}
        place = {self._file: None}
        try:
            video = visitor.open(upload)
        except InputError as error:
            yield place | {self._status: _alert(error), self._slider: None, self._start: gr.update(interactive=False)}
            return
        height, width = video.size
        rate = f"{float(video.frame_rate):.4g} a second"
        description = f"{video.name}: {width} x {height} pixels, {video.frame_count} frames, {rate}"
        yield place | {
            self._status: _line("; ".join([description, *map(visitor.shorter, video.notes)])),
            self._slider: visitor.show(0, Look(), VIEWS[0]),
            self._start: gr.update(interactive=True),
        }

    def _find(self, request: gr.Request, size: str, number: Any, view: str, *look: Any) -> Iterator[dict[Any, Any]]:
        """Compute, and show the newest frame now and then."""
        visitor = self._visitor(request)
        hidden = gr.update(visible=False)
        try:
            visitor.segment(size)
        except InputError as error:
            yield {self._status: _alert(error)}
            return
        yield {self._after: hidden, self._ready: hidden, self._stop: gr.update(visible=True)}
        shown = 0

        def newest() -> dict[Any, Any]:
            nonlocal shown
            if visitor.known <= shown:
                return {}
            shown = visitor.known
            return {self._slider: visitor.show(shown - 1, _look(visitor, *look), view)}

        done = yield from self._watch(visitor, newest)
        if visitor.known and done is not None:
            job, number = visitor.job, visitor.known // 2
            begun = "Stopped after" if job and job.stopped else "Done:"
            rate = f" at {job.rate:.1f} a second" if job and job.rate else ""
            visitor.found = f"{begun} {visitor.known} frames{rate}."
            yield {
                self._number: gr.update(value=number, maximum=max(visitor.known - 1, 1)),
                self._after: gr.update(visible=True),
            }
            if done:
                yield from self._shown(visitor, number, view, _look(visitor, *look))
        elif done:
            yield {self._status: _line("Stopped before the first frame.")}

    def _make(self, request: gr.Request, kind: str, *look: Any) -> Iterator[dict[Any, Any]]:
        """Write a file to download."""
        visitor = self._visitor(request)
        try:
            path = visitor.make(kind, _look(visitor, *look))
        except InputError as error:
            yield {self._status: _alert(error)}
            return
        yield {self._ready: gr.update(visible=False), self._stop: gr.update(visible=True)}
        if (yield from self._watch(visitor, dict)) and path.exists():
            size = f"{path.stat().st_size / 1e6:.1f} MB"
            yield {
                self._status: _line(f"{path.name} is ready, {size}."),
                self._ready: gr.update(value=str(path), label=f"Save {path.name} ({size})", visible=True),
            }

    def _watch(
        self, visitor: Visitor, more: Callable[[], dict[Any, Any]]
    ) -> Generator[dict[Any, Any], None, bool | None]:
        """Tell how far a visitor's job is until it ends, each time with what `more` gives.

        Returns whether it went well, or None where another one took its place, which is told elsewhere.
        """
        job, begin = visitor.job, time.monotonic()
        while job and job.running:
            yield {self._status: _progress(job, time.monotonic() - begin), **more()}
            time.sleep(_EVERY)
        if visitor.job is not job:
            return None
        failure = job.failure if job else ""
        yield {self._stop: gr.update(visible=False), **({self._status: _alert(failure)} if failure else {})}
        return not failure

    def _show(self, request: gr.Request, number: Any, view: str, *look: Any) -> Iterator[dict[Any, Any]]:
        """A control moved: draw the frame anew, from what the network said of it."""
        visitor = self._visitor(request)
        if visitor.known > number:
            yield from self._shown(visitor, int(number), view, _look(visitor, *look))

    def _shown(self, visitor: Visitor, number: int, view: str, look: Look) -> Iterator[dict[Any, Any]]:
        """Show a frame, as soon as those before it are followed where a look asks for that."""
        due = not visitor.has(number, look)

        def wanted() -> dict[Any, Any]:
            nonlocal due
            if not due or not visitor.has(number, look):
                return {}
            due = False
            return {self._slider: visitor.show(number, look, view)}

        if not visitor.has(visitor.known - 1, look):
            visitor.follow(look)
            yield {self._stop: gr.update(visible=True)}
            if not (yield from self._watch(visitor, wanted)):
                return
        of = f" of {visitor.known}" if visitor.followed < visitor.known else ""
        followed = f"Followed through {visitor.followed}{of} frames.{_numbered(visitor)}"
        marked = " (nothing moves by itself here)" if visitor.seen[number].nothing else ""
        yield {
            self._status: _line(f"{followed if look.follows else visitor.found}{_empty(visitor)}"),
            self._slider: visitor.show(number, look, view),
            self._number: gr.update(label=f"Frame{marked}"),
        }

    def _halt(self, request: gr.Request) -> None:
        self._visitor(request).stop()

    def _leave(self, request: gr.Request) -> None:
        """The page was closed, or loaded anew."""
        if visitor := self._visitors.pop(request.session_hash or "", None):
            visitor.close()


def _look(visitor: Visitor, *controls: Any) -> Look:
    threshold, smallest, holes, grow, feather, steady, objects, nothing = map(float, controls)
    percent = visitor.video.size[0] * visitor.video.size[1] / 100
    clean_up = CleanUp(round(smallest * percent), round(holes * percent), grow, feather, steady)
    return Look(threshold, clean_up, int(objects), bool(nothing))


def _empty(visitor: Visitor) -> str:
    """Which frames show nothing that moves by itself, as the sentence after another one."""
    marked = [number for number, seen in enumerate(visitor.seen) if seen.nothing]
    runs = [[*run] for _, run in itertools.groupby(enumerate(marked), lambda pair: pair[1] - pair[0])]
    named = [f"{run[0][1]} to {run[-1][1]}" if len(run) > 1 else f"{run[0][1]}" for run in runs]
    return f" Nothing moves by itself in {len(marked)} of them: {first_of(named, 5)}." if marked else ""


def _numbered(visitor: Visitor) -> str:
    """What objects were numbered, as the sentence after another one."""
    seen = [f"number {each['object']} in {each['frames']} frames" for each in visitor.objects]
    return f" Objects: {first_of(seen, 10)}." if seen else ""


def _line(text: str) -> str:
    return f'<p role="status">{html.escape(text)}</p>'


def _alert(error: object) -> str:
    return f'<p role="alert" class="wrong">{html.escape(str(error))}</p>'


def _progress(job: Job, seconds: float) -> str:
    doing = f"{job.doing}, then stopping" if job.stopped else job.doing
    text = f"{doing}: {job.done} of {job.total} frames" if job.done else f"{doing}, {seconds:.0f} s"
    if job.rate:
        left = round((job.total - job.done) / job.rate)
        text += f", {job.rate:.1f} a second, {left // 60}:{left % 60:02d} left"
    return f"{_line(text)}<progress max={job.total} value={job.done}></progress>"
