"""Runs the authors' release on given arrays: the PyTorch half of `hmhi compare`, a script of its own.

    PYTHON_WITH_TORCH release_process.py REQUEST.json

It needs PyTorch and NumPy and nothing of this package, so that any Python that can run the release can run it. The
clone is imported as it is. What it imports and a normal machine lacks (timm at the path it had in 2022, a decorator of
a visualiser, torchvision for an encoder that is never built, its own path set-up) is put in place at run time, in
memory. `REQUEST.json` is written by `compare`, which also reads `report.json` and the arrays left in `output`.
"""

import json
import resource
import sys
import time
import types
from pathlib import Path

import numpy as np

# Encoders that the network can be built with, and the class of the clone that is taken. The network itself knows two;
# their deeper relatives have the same widths and take their places.
_ENCODERS = {
    "mit_b1": ("mit_b1", "SMTC_b1", "SMTC_b1"),
    "mit_b2": ("mit_b1", "SMTC_b1", "SMTC_b2"),
    "mit_b3": ("mit_b1", "SMTC_b1", "SMTC_b3"),
    "mit_b4": ("mit_b1", "SMTC_b1", "SMTC_b4"),
    "mit_b5": ("mit_b1", "SMTC_b1", "SMTC_b5"),
    "swin_tiny": ("swin_tiny", "swin_tiny", "swin_tiny"),
    "swin_small": ("swin_tiny", "swin_tiny", "swin_small"),
}


def main(request_path: str) -> None:
    """Do what the request says and leave a report."""
    import torch

    request = json.loads(Path(request_path).read_text())
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device(request["device"])
    lent = lend_imports(Path(request["clone"]))
    model = build(request["model"])
    state = torch.load(request["weights"], map_location="cpu", weights_only=True)["network"]
    model.load_state_dict(state, strict=True)
    model.to(device).eval()  # evaluation mode: dropout and drop path are off, in training too
    with np.load(request["clip"]) as clip:
        arrays = {name: clip[name] for name in clip.files}
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(x.transpose(0, 1, 4, 2, 3))).to(device)
        for name, x in arrays.items()
    }
    run = train if request["mode"] == "train" else infer
    report = run(model, tensors, request, device)
    report |= {
        "software": f"torch {torch.__version__}, Python {sys.version.split()[0]}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "lent_imports": lent,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    (Path(request["output"]) / "report.json").write_text(json.dumps(report))


def build(arguments: dict) -> "torch.nn.Module":
    """The release's network, without the ImageNet weights its constructor wants to read from a fixed path."""
    import lib
    from lib.HMHI_Net import HMHI_Net

    encoder, slot, chosen = _ENCODERS[arguments["backbone"]]
    setattr(lib, slot, getattr(lib, chosen))
    HMHI_Net.init_backbone = lambda self: None
    return HMHI_Net(
        types.SimpleNamespace(
            encoder=encoder,
            num_points=121,
            train_num_frame=arguments["memory_frames"],  # which is what it takes the banks' capacity from
            add_mem0=arguments["shallow_memory"],
            add_mem1=arguments["deep_memory"],
            add_obj_to_pixel=arguments["sgim"],
            add_pixel_to_obj=arguments["plam"],
        )
    )


def infer(model, tensors, request: dict, device) -> dict:
    """Time a plain pass, then record every map of a second one."""
    import torch

    frames, flows = tensors["frames"], tensors["flows"]
    with torch.no_grad():
        model(frames[:, :2], flows[:, :2], mode="val")  # warm
        _synchronise(device)
        begin, busy = time.perf_counter(), time.process_time()
        model(frames, flows, mode="val")
        _synchronise(device)
        seconds, busy = time.perf_counter() - begin, time.process_time() - busy
        peak = _peak_mib(device)
        maps = record(model, lambda: model(frames, flows, mode="val"))
    for name, values in maps.items():
        np.save(Path(request["output"]) / f"{name}.npy", np.stack(values, 1))
    count = frames.shape[1]
    return {"seconds_per_frame": seconds / count, "cpu_seconds_per_frame": busy / count, "peak_mib": peak}


def record(model, run) -> dict[str, list[np.ndarray]]:
    """Every map of a pass, `[B, h, w, C]` for each frame that has one."""
    maps: dict[str, list[np.ndarray]] = {}

    def keep(name: str, value) -> None:
        maps.setdefault(name, []).append(value.detach().float().cpu().numpy().transpose(0, 2, 3, 1).copy())

    def wrap(owner, method: str, taken) -> None:
        original = getattr(owner, method)

        def wrapped(*args, **kwargs):
            result = original(*args, **kwargs)
            for name, value in taken(result).items():
                keep(name, value)
            return result

        setattr(owner, method, wrapped)

    wrap(model, "encode_forward", lambda maps: {f"fused{level}": x for level, x in enumerate(maps, 1)})
    wrap(model, "decode_forward", lambda result: {"logits": result[0][0], "coarse_logits": result[1]})
    for bank, name in (("Mem0", "shallow"), ("Mem1", "deep")):
        if hasattr(model, bank):
            memory = getattr(model, bank)
            wrap(memory, "read_out", lambda x, name=name: {f"read_{name}": x})
            memory.memory_encoder.register_forward_hook(lambda *a, name=name: keep(f"mem_{name}", a[-1][0]))
    wrap(model, "SGIM_obj_refine_pixel", lambda x: {"sgim": x})
    wrap(model, "PLAM_pixel_refine_obj", lambda x: {"plam": x})
    run()
    return maps


def train(model, tensors, request: dict, device) -> dict:
    """Steps of the release's training loop on one clip each, its own losses and optimiser settings."""
    import torch
    from lib.utils.loss_func import Diceloss, FocalLoss

    dice, focal = Diceloss(), FocalLoss()
    if "swin" in request["model"]["backbone"]:
        spared = ("absolute_pos_embed", "relative_position_bias_table", "norm")
        named = list(model.named_parameters())
        groups = [
            {"params": [p for n, p in named if not any(word in n for word in spared)]},
            {"params": [p for n, p in named if any(word in n for word in spared)], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, request["learning_rate"], betas=(0.9, 0.999), weight_decay=0.01)
    else:
        optimiser = torch.optim.AdamW(
            model.parameters(), request["learning_rate"], betas=(0.9, 0.999), weight_decay=5e-4
        )
    losses, norms, without, seconds, busy = [], [], [], [], []
    for step in range(request["steps"]):
        clip = [step % len(tensors["frames"])]
        frames, flows, masks = (tensors[name][clip] for name in ("frames", "flows", "masks"))
        _synchronise(device)
        begin, worked = time.perf_counter(), time.process_time()
        logits = model(frames, flows, mode="train")
        loss = sum(20 * focal(x, masks[:, t]) + dice(x, masks[:, t]) for t, x in enumerate(logits))
        optimiser.zero_grad()
        loss.backward()
        gradients = {n: float(p.grad.norm()) for n, p in model.named_parameters() if p.grad is not None}
        without = [n for n, p in model.named_parameters() if p.grad is None]
        optimiser.step()
        _synchronise(device)
        seconds.append(time.perf_counter() - begin)
        busy.append(time.process_time() - worked)
        losses.append(float(loss))
        norms.append(gradients)
    torch.save({"network": model.state_dict()}, Path(request["output"]) / "trained.pth")
    return {
        "losses": losses,
        "gradient_norms": norms,
        "without_gradient": without,
        "seconds_per_step": min(seconds[1:] or seconds),
        "cpu_seconds_per_step": min(busy[1:] or busy),
        "peak_mib": _peak_mib(device),
    }


def _synchronise(device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_mib(device) -> float:
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def lend_imports(clone: Path) -> list[str]:
    """Make the clone importable; returns the names of modules that had to be lent."""
    import torch

    sys.path[0] = str(clone)  # in place of this script's folder, whose modules are none of the release's business
    sys.modules["_init_paths"] = types.ModuleType("_init_paths")  # it would do what the line above did

    class DropPath(torch.nn.Module):
        """Stochastic depth: whole rows of a branch."""

        def __init__(self, drop_prob: float = 0.0) -> None:
            super().__init__()
            self.drop_prob = drop_prob

        def forward(self, x):
            if not self.training or not self.drop_prob:
                return x
            shape = (x.shape[0],) + (1,) * (x.ndim - 1)
            return x * torch.bernoulli(torch.full(shape, 1 - self.drop_prob, device=x.device)) / (1 - self.drop_prob)

    def unchanged(function):
        return function

    lent = []
    for name, contents in (
        (
            "timm.models.layers",
            {
                "DropPath": DropPath,
                "to_2tuple": lambda x: x if isinstance(x, tuple) else (x, x),
                "trunc_normal_": torch.nn.init.trunc_normal_,
            },
        ),
        ("timm.models.registry", {"register_model": unchanged}),
        ("timm.models.vision_transformer", {"_cfg": dict}),
        ("visualizer", {"get_local": lambda *names: unchanged}),
        ("torchvision.models", {"ResNet101_Weights": None}),
        ("torchvision.transforms", {}),
    ):
        try:
            module = __import__(name, fromlist=["_"])
            if all(hasattr(module, attribute) for attribute in contents):
                continue
        except Exception:  # missing, or broken in whatever way: the release does not need the real one
            pass
        lent.append(name)
        parts = name.split(".")
        for depth in range(1, len(parts)):
            parent = ".".join(parts[:depth])
            if not isinstance(sys.modules.get(parent), types.ModuleType):
                sys.modules[parent] = types.ModuleType(parent)
        module = types.ModuleType(name)
        module.__dict__.update(contents)
        sys.modules[name] = module
        if len(parts) > 1:
            setattr(sys.modules[".".join(parts[:-1])], parts[-1], module)
    return lent


if __name__ == "__main__":
    main(sys.argv[1])
