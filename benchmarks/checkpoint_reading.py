"""Times reading and converting a `.pth` of the release's layout, here and by torch.load.

    python benchmarks/checkpoint_reading.py [--python PYTHON_WITH_TORCH] [--checkpoint C] [--rounds N]

Without a checkpoint it writes one of recipe weights for mit_b1 (189 MB). Each side is a process of its own; a round
goes from the closed file to arrays in the layout Flax wants (linear kernels transposed, convolutions turned). The
fastest of N rounds is printed, with the file in the page cache.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

_TORCH = """
import json, resource, sys, time
start = time.perf_counter()
import numpy as np, torch
imported = time.perf_counter() - start
rounds = []
for _ in range(int(sys.argv[2])):
    wall, busy = [time.perf_counter()], time.process_time()
    state = torch.load(sys.argv[1], map_location="cpu", weights_only=True)["network"]
    wall.append(time.perf_counter())
    turned = {}
    for name, tensor in state.items():
        array = tensor.numpy()
        axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim)
        turned[name] = np.array(array) if axes is None else np.ascontiguousarray(array.transpose(axes))
    wall.append(time.perf_counter())
    rounds.append({"read": wall[1] - wall[0], "convert": wall[2] - wall[1], "cpu": time.process_time() - busy})
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"import": imported, "rounds": rounds, "peak": peak}))
"""

_OURS = """
import json, resource, sys, time
start = time.perf_counter()
import jax
from hmhi_jax.interop.identify import identify
from hmhi_jax.interop.conversion import variables_of
from hmhi_jax.interop.weight_sources import read_source
imported = time.perf_counter() - start
identify(read_source(sys.argv[1]))  # traces the network once, for the shapes it expects
rounds = []
for _ in range(int(sys.argv[2])):
    wall, busy = [time.perf_counter()], time.process_time()
    source = read_source(sys.argv[1], verify=False)
    wall.append(time.perf_counter())
    source = read_source(sys.argv[1])
    wall.append(time.perf_counter())
    begun = time.process_time()
    read = read_source(sys.argv[1])
    jax.block_until_ready(variables_of(identify(read)))
    wall.append(time.perf_counter())
    rounds.append({
        "map": wall[1] - wall[0], "read": wall[2] - wall[1],
        "convert": wall[3] - wall[2] - (wall[2] - wall[1]), "cpu": time.process_time() - begun,
    })
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"import": imported, "rounds": rounds, "peak": peak}))
"""


def recipe_checkpoint(path: Path) -> None:
    """Recipe weights of mit_b1 as the release saves them."""
    from hmhi_jax.interop.conversion import write_torch_checkpoint
    from hmhi_jax.interop.torch_weights import expected_entries, from_torch, to_torch
    from hmhi_jax.models import build_model
    from hmhi_jax.tools.compare.compare import recipe_state_dict

    model = build_model("mit_b1")
    drawn = recipe_state_dict({name: entry.shape for name, entry in expected_entries(model).items()}, 0)
    write_torch_checkpoint(path, {"network": to_torch(model, from_torch(model, drawn))})


def measured(python: str, script: str, checkpoint: Path, rounds: int) -> dict:
    result = subprocess.run(
        [python, "-c", script, str(checkpoint), str(rounds)], check=True, capture_output=True, text=True
    )
    found = json.loads(result.stdout.splitlines()[-1])
    fastest = {key: min(one[key] for one in found["rounds"]) for key in found["rounds"][0]}
    return {**fastest, "import": found["import"], "peak": found["peak"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="a Python with torch and numpy; without it only ours is timed")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = arguments.checkpoint or Path(folder) / "mit_b1.pth"
        if arguments.checkpoint is None:
            recipe_checkpoint(checkpoint)
        print(f"{checkpoint.name}: {checkpoint.stat().st_size / 1e6:.0f} MB, fastest of {arguments.rounds} rounds")
        sides = {"ours": (sys.executable, _OURS)}
        if arguments.python:
            sides["torch.load + NumPy"] = (arguments.python, _TORCH)
        for name, (python, script) in sides.items():
            one = measured(python, script, checkpoint, arguments.rounds)
            mapped = f"map {1e3 * one['map']:.0f} ms, " if "map" in one else ""
            print(
                f"{name}: {mapped}read {1e3 * one['read']:.0f} ms, convert {1e3 * one['convert']:.0f} ms, together "
                f"{1e3 * one['cpu']:.0f} ms of processor time; import {one['import']:.1f} s, peak {one['peak']:.0f} MiB"
            )


if __name__ == "__main__":
    main()
