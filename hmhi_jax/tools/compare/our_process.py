"""Our half of `hmhi compare`, a process of its own: `python -m hmhi_jax.tools.compare.our_process REQUEST.json`.

It takes the same request as `hmhi_jax/tools/compare/release_process.py` and leaves the same files.
"""

import json
import resource
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from hmhi_jax.interop.conversion import write_torch_checkpoint
from hmhi_jax.interop.torch_weights import from_torch, to_torch, torch_name
from hmhi_jax.interop.weight_sources import read_source
from hmhi_jax.models import build_model, frame
from hmhi_jax.process import enable_compilation_cache


def main(request_path: str) -> None:
    """Do what the request says and leave a report."""
    # Both sides multiply float32 by float32; accelerators would round to fewer bits by default.
    jax.config.update("jax_default_matmul_precision", "highest")
    enable_compilation_cache()
    request = json.loads(Path(request_path).read_text())
    model = build_model(**request["model"])
    variables = from_torch(model, read_source(request["weights"]).entries)
    with np.load(request["clip"]) as clip:
        arrays = {name: clip[name] for name in clip.files}
    run = train if request["mode"] == "train" else infer
    report = run(model, variables, arrays, request)
    device = jax.local_devices()[0]
    report |= {
        "software": f"JAX {jax.__version__}, Python {sys.version.split()[0]}",
        "device": device.device_kind if device.platform != "cpu" else "cpu",
        "parameters": sum(x.size for x in jax.tree.leaves(variables["params"])),
    }
    (Path(request["output"]) / "report.json").write_text(json.dumps(report))


def infer(model: Any, variables: Any, arrays: dict[str, np.ndarray], request: dict[str, Any]) -> dict[str, Any]:
    """Frame by frame as a video comes: encode, start or step. Maps are the modules' own intermediates."""

    def recorded(*args: Any, method: str) -> Any:
        return model.apply(*args, method=method, mutable=["intermediates"])

    # Three programs, so that the encoder, most of what there is to compile, is compiled once.
    encode = jax.jit(lambda variables, rgb, flow: recorded(variables, rgb, flow, method="encode"))
    start = jax.jit(lambda variables, features: recorded(variables, frame(features, 0), method="start"))
    step = jax.jit(lambda variables, memory, features: recorded(variables, memory, frame(features, 0), method="step"))

    def advance(memory: Any, rgb: Any, flow: Any) -> tuple[Any, Any, dict[str, Any]]:
        features, encoded = encode(variables, rgb, flow)
        outputs, seen = start(variables, features) if memory is None else step(variables, memory, features)
        return *outputs, {**encoded["intermediates"], **seen["intermediates"]}

    frames = range(arrays["frames"].shape[1])
    clip = [jax.device_put([arrays[name][:, t : t + 1] for name in ("frames", "flows")]) for t in frames]

    def run(keep: bool) -> dict[str, list[np.ndarray]]:
        maps: dict[str, list[np.ndarray]] = {}
        memory = None
        for inputs in clip:
            memory, logits, seen = advance(memory, *inputs)
            if keep:
                maps.setdefault("logits", []).append(np.asarray(logits))
                for name, value in seen.items():
                    if isinstance(value, tuple):  # the network's own; what a module inside keeps is a dictionary
                        maps.setdefault(name, []).append(np.asarray(value[0], np.float32))
        jax.block_until_ready((memory, logits))
        return maps

    begin = time.perf_counter()
    memory, _, _ = advance(None, *clip[0])
    jax.block_until_ready(advance(memory, *clip[min(1, len(clip) - 1)])[1])
    warm = time.perf_counter() - begin
    begin, busy = time.perf_counter(), time.process_time()
    run(keep=False)
    seconds, busy = time.perf_counter() - begin, time.process_time() - busy
    peak = _peak()
    for name, values in run(keep=True).items():
        np.save(Path(request["output"]) / f"{name}.npy", np.stack(values, 1))
    figures = {"seconds_per_frame": seconds / len(clip), "cpu_seconds_per_frame": busy / len(clip)}
    return figures | {"compile_seconds": warm, "peak_mib": peak}


def train(model: Any, variables: Any, arrays: dict[str, np.ndarray], request: dict[str, Any]) -> dict[str, Any]:
    """Training steps, one clip each, in evaluation mode: no dropout, no drop path."""
    from hmhi_jax.training.clip_forward import clip_logits  # here, for what they import is no memory of inference
    from hmhi_jax.training.losses import segmentation_loss
    from hmhi_jax.training.optimiser import learning_rate_schedule, make_optimiser
    from hmhi_jax.training.step import compiler_options

    swin = request["model"]["backbone"].startswith("swin")
    schedule = learning_rate_schedule("constant", request["learning_rate"], request["steps"])
    decay, mask = (0.01, "spare_norms") if swin else (5e-4, "all")
    optimiser = make_optimiser(schedule, weight_decay=decay, decay_mask=mask)

    platform = jax.devices()[0].platform

    # The release's clips come normalised, which `make_train_step` would do; the rest is as there. Two programs: parts
    # of what XLA does to compile one for the CPU take a time that grows with the square of its size.
    @partial(jax.jit, compiler_options=compiler_options(platform))
    @jax.value_and_grad
    def loss_and_gradient(params: Any, frames: Any, flows: Any, masks: Any) -> Any:
        moved = {**variables, "params": params}
        logits, _ = clip_logits(model, moved, frames, flows, checkpoint="cheap", unroll=platform == "cpu")
        return segmentation_loss(logits, masks)

    @partial(jax.jit, donate_argnums=(0, 1))
    def moved_by(gradient: Any, state: Any, params: Any) -> Any:
        updates, state = optimiser.update(gradient, state, params)
        norms = jax.tree.map(lambda g: jnp.linalg.norm(g.reshape(-1)), gradient)
        return jax.tree.map(lambda p, u: p + u, params, updates), state, norms

    def step(params: Any, state: Any, *inputs: Any) -> Any:
        loss, gradient = loss_and_gradient(params, *inputs)
        params, state, step_norms = moved_by(gradient, state, params)
        return params, state, loss, step_norms

    params, losses, norms, seconds, busy = variables["params"], [], [], [], []
    state = jax.jit(optimiser.init)(params)
    for index in range(request["steps"]):
        clip = [index % len(arrays["frames"])]
        inputs = jax.device_put([arrays[name][clip] for name in ("frames", "flows", "masks")])
        begin, worked = time.perf_counter(), time.process_time()
        params, state, loss, step_norms = jax.block_until_ready(step(params, state, *inputs))
        seconds.append(time.perf_counter() - begin)
        busy.append(time.process_time() - worked)
        losses.append(float(loss))
        norms.append(_named_norms(model, step_norms, params))
    trained = to_torch(model, {**variables, "params": jax.device_get(params)})
    write_torch_checkpoint(Path(request["output"]) / "trained.pth", {"network": trained})
    return {
        "losses": losses,
        "gradient_norms": norms,
        "seconds_per_step": min(seconds[1:] or seconds),
        "cpu_seconds_per_step": min(busy[1:] or busy),
        "compile_seconds": seconds[0] - min(seconds[1:]) if len(seconds) > 1 else None,
        "peak_mib": _peak(),
    }


def _named_norms(model: Any, norms: Any, params: Any) -> dict[str, float]:
    """Norms under the release's names."""
    ranks = {path: leaf.ndim for path, leaf in flatten_dict(params, sep="/").items()}
    flat = flatten_dict(norms, sep="/")
    return {torch_name(path, ranks[path], model.backbone): float(norm) for path, norm in flat.items()}


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _peak() -> float:
    """Largest memory so far, MiB: of the accelerator where it tells, else of this process."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    return stats["peak_bytes_in_use"] / 2**20 if stats and "peak_bytes_in_use" in stats else peak_mib()


if __name__ == "__main__":
    main(sys.argv[1])
