"""One side of `benchmarks/accelerator.py`: the authors' release in PyTorch, with PyTorch's own settings of precision.

Started by that benchmark in a Python that has torch: `accelerator_release.py frames|training REQUEST`.
"""

import contextlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LANES = 8


def build(request: dict, memory_frames: int) -> torch.nn.Module:
    """The release's network, fresh."""
    spec = importlib.util.spec_from_file_location("release_process", request["script"])
    release = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(release)
    if "lib" not in sys.modules:
        release.lend_imports(Path(request["release"]))
    torch.manual_seed(0)
    return release.build(
        {"backbone": "mit_b1", "memory_frames": memory_frames, "shallow_memory": True, "deep_memory": True,
         "sgim": True, "plam": True}
    ).to(DEVICE)  # fmt: skip


def synchronise() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def peak_mib() -> float:
    return round(torch.cuda.max_memory_allocated() / 2**20) if DEVICE.type == "cuda" else 0


class Frames:
    """A frame at steady state of so many videos at once."""

    def __init__(self, request: dict, memory_frames: int, videos: int, compiled: bool, autocast: bool) -> None:
        side = 64 if request["small"] else 512
        self.model, self.videos, self.autocast = build(request, memory_frames).eval(), videos, autocast
        self.frame, self.flow = (torch.randn(videos, 3, side, side, device=DEVICE) for _ in range(2))
        self.compiled = compiled
        with self._settings():
            self.model.reset_mem()
            self._remember(self.model.encode_forward(self.frame, self.flow))
            for _ in range(memory_frames):
                self.step()
        if compiled:  # with full banks, whose shapes change no more
            for name in ("encode_forward", "decode_forward", "SGIM_obj_refine_pixel", "PLAM_pixel_refine_obj"):
                setattr(self.model, name, torch.compile(getattr(self.model, name), dynamic=False))
            for bank in (self.model.Mem0, self.model.Mem1):
                bank.read_out = torch.compile(bank.read_out, dynamic=False)
        self.run(3)

    def _settings(self) -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        stack.enter_context(torch.no_grad() if self.compiled else torch.inference_mode())
        if self.autocast:
            stack.enter_context(torch.autocast(DEVICE.type, torch.bfloat16))
        return stack

    def step(self) -> torch.Tensor:
        model = self.model
        maps = model.encode_forward(self.frame, self.flow)
        shallow, deep = model.Mem0.read_out(maps[1]), model.Mem1.read_out(maps[3])
        maps[1], maps[3] = model.SGIM_obj_refine_pixel(shallow, deep), model.PLAM_pixel_refine_obj(shallow, deep)
        return self._remember(maps)

    def _remember(self, maps: list[torch.Tensor]) -> torch.Tensor:
        logits, coarse = self.model.decode_forward(maps, return_raw=True)
        self.model.Mem0.add_mask_to_memory(maps[1], coarse)
        self.model.Mem1.add_mask_to_memory(maps[3], coarse)
        return logits[0]

    def run(self, count: int) -> None:
        with self._settings():
            for _ in range(count):
                self.step()
        synchronise()

    def kernels(self) -> int:
        """Kernels that a frame starts."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            self.run(1)
        return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profiler.events())


def frames(request: dict, answers) -> None:
    begin = time.perf_counter()
    compiled = request["compiled"]
    sides: dict[str, Callable[[], Frames]] = {}
    for memory in (5, 3):
        for videos in (1, LANES):
            name = f"memory {memory}, {'one video' if videos == 1 else f'{videos} videos'}"
            for autocast in (False, True):
                if compiled and (videos > 1 or memory == 3):
                    continue
                sides[name + (", autocast" if autocast else "")] = (memory, videos, compiled, autocast)
    ready, errors = {}, {}
    for name, (memory, videos, compiled, autocast) in sides.items():
        try:
            ready[name] = Frames(request, memory, videos, compiled, autocast)
        except (RuntimeError, TypeError, ValueError) as error:
            errors[name] = f"{type(error).__name__}: {str(error)[:200]}"
    told = {"parts": list(ready), "errors": errors, "getting ready s": round(time.perf_counter() - begin, 1)}
    if DEVICE.type == "cuda":
        told["kernels a frame"] = {name: side.kernels() for name, side in ready.items()}
    print(json.dumps(told), file=answers, flush=True)
    for command in sys.stdin:
        name, count = command.rsplit(maxsplit=1)
        begin = time.perf_counter()
        ready[name].run(int(count))
        told = {"seconds": (time.perf_counter() - begin) / int(count), "videos": ready[name].videos}
        print(json.dumps(told | {"peak MiB": peak_mib()}), file=answers, flush=True)


def training(request: dict, answers) -> None:
    """The release's step with more and more clips until the card is full."""
    side, length = (64, 2) if request["small"] else (512, 5)
    model = build(request, length).train()
    from lib.utils.loss_func import Diceloss, FocalLoss

    dice, focal = Diceloss(), FocalLoss()
    optimiser = torch.optim.AdamW(model.parameters(), 6e-5, betas=(0.9, 0.999), weight_decay=5e-4)
    for clips in (1,) if request["small"] else (2, 4, 6, 8):
        try:
            if DEVICE.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            pictures, flows = (torch.randn(clips, length, 3, side, side, device=DEVICE) for _ in range(2))
            masks = (torch.rand(clips, length, 1, side, side, device=DEVICE) < 0.3).float()
            seconds = []
            for _ in range(2 if request["small"] else 5):
                synchronise()
                begin = time.perf_counter()
                logits = model(pictures, flows, mode="train")
                loss = sum(20 * focal(x, masks[:, t]) + dice(x, masks[:, t]) for t, x in enumerate(logits))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                synchronise()
                seconds.append(time.perf_counter() - begin)
        except torch.OutOfMemoryError:
            print(json.dumps({"clips": clips, "out of memory": True, "last": True}), file=answers, flush=True)
            return
        told = {
            "clips": clips, "s": min(seconds[1:]), "clips/s": clips / min(seconds[1:]), "peak MiB": peak_mib(),
            "MiB a clip": peak_mib() / clips, "last": clips == 8 or request["small"],
        }  # fmt: skip
        print(json.dumps(told), file=answers, flush=True)
        logits = loss = None


if __name__ == "__main__":
    answering = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the release prints; only answers belong on this pipe
    {"frames": frames, "training": training}[sys.argv[1]](json.loads(sys.argv[2]), answering)
