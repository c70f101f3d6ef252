"""One side of `benchmarks/inference.py`: this package, with the programs the streaming segmenter runs."""

import json
import os
import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import hmhi_jax as hmhi
from hmhi_jax import process
from hmhi_jax.inference.functions import functions_of
from hmhi_jax.inference.network import Network


def main(request: dict) -> None:
    answers = os.fdopen(os.dup(1), "w")
    if request["cache"]:
        process.enable_compilation_cache()
    model = hmhi.build_model("mit_b1", memory_frames=request["memory_frames"], dtype=request["dtype"])
    with np.load(request["weights"]) as state:
        network = Network(functions_of(model), hmhi.interop.from_torch(model, dict(state)))
    variables = network.variables
    clip = np.load(request["clip"])
    began = time.perf_counter()

    def encode(t: int):
        (features,) = network.encode(clip[:1, t : t + 1], clip[1:, t : t + 1])
        return features

    memory, first = network.start(encode(0))
    logits = [first]
    for t in range(1, clip.shape[1]):
        memory, out = network.step(memory, encode(t))
        logits.append(out)
    np.save(request["logits"], np.stack([np.asarray(x, np.float32)[0, 0, ..., 0] for x in logits]))
    warm_up = time.perf_counter() - began
    last = clip.shape[1] - 1
    features = tuple(x[0] for x in encode(last))
    held, alone = {"memory": memory}, jax.tree.map(lambda x: x[0], memory)

    def frame():
        held["memory"], out = network.step(held["memory"], encode(last))
        return out

    def part(function):
        jitted = jax.jit(lambda variables, *inputs: model.apply(variables, *inputs, method=function))
        return lambda *inputs: jitted(variables, *inputs)

    read_shallow = part(lambda net, memory, x: net.shallow_bank.read(memory.shallow, x, memory.written))
    read_deep = part(lambda net, memory, x: net.deep_bank.read(memory.deep, x, memory.written))
    sgim, plam = part(lambda net, a, b: net.sgim_module(a, b)), part(lambda net, a, b: net.plam_module(a, b))
    decode = part(lambda net, maps: net.decoder(maps))
    coarse = jnp.zeros((1, clip.shape[2] // 4, clip.shape[3] // 4, 1))

    def memorise(name: str):
        def write(net, memory, x, coarse):
            bank = getattr(net, f"{name}_bank")
            return bank.write(getattr(memory, name), bank.encode(x, coarse), memory.written)

        return part(write)

    memorise_shallow, memorise_deep = memorise("shallow"), memorise("deep")
    square = jnp.ones((2048, 2048))
    product = jax.jit(jnp.matmul)
    parts = {
        "frame": frame,
        "encoder (two pictures)": lambda: encode(last),
        "shallow read-out": lambda: read_shallow(alone, features[1]),
        "deep read-out": lambda: read_deep(alone, features[3]),
        "SGIM": lambda: sgim(features[1], features[3]),
        "PLAM": lambda: plam(features[1], features[3]),
        "decoder": lambda: decode(features),
        "memorise shallow": lambda: memorise_shallow(alone, features[1], coarse),
        "memorise deep": lambda: memorise_deep(alone, features[3], coarse),
        "matmul 2048": lambda: product(square, square),
    }
    ready = {"warm_up_seconds": warm_up, "parts": list(parts), "software": f"JAX {jax.__version__}"}
    print(json.dumps(ready), file=answers, flush=True)
    for command in sys.stdin:
        begin = time.perf_counter()
        jax.block_until_ready(parts[command.strip()]())
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux: KiB
        print(json.dumps({"seconds": seconds, "peak_gib": peak}), file=answers, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
