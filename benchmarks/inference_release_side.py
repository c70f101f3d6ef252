"""One side of `benchmarks/inference.py`: the authors' release in PyTorch, driven frame by frame with its memory full.

Started by that benchmark in a Python that has torch; reads commands from standard input, answers in JSON.
"""

import importlib.util
import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch


def main(request: dict) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the release prints; only answers belong on this pipe
    torch.manual_seed(0)
    spec = importlib.util.spec_from_file_location("release_process", request["release_script"])
    release = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(release)
    release.lend_imports(Path(request["clone"]))
    model = release.build(
        {"backbone": "mit_b1", "memory_frames": request["memory_frames"], "shallow_memory": True, "deep_memory": True,
         "sgim": True, "plam": True}
    ).eval()  # fmt: skip
    if request["weights"]:
        np.savez(request["weights"], **{name: value.numpy() for name, value in model.state_dict().items()})
    mean, std = (torch.tensor(x).reshape(1, 3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    clip = torch.from_numpy(np.load(request["clip"]))  # uint8 [2, T, H, W, 3]: frames, flows
    clip = [[(x[None].permute(0, 3, 1, 2) / 255 - mean) / std for x in kind] for kind in clip]
    began = time.perf_counter()
    if request["compiled"]:
        for name in ("encode_forward", "decode_forward", "SGIM_obj_refine_pixel", "PLAM_pixel_refine_obj"):
            setattr(model, name, torch.compile(getattr(model, name)))
        for bank in (model.Mem0, model.Mem1):
            bank.read_out = torch.compile(bank.read_out)

    def step(t: int):
        maps = model.encode_forward(clip[0][t], clip[1][t])
        shallow, deep = model.Mem0.read_out(maps[1]), model.Mem1.read_out(maps[3])
        maps[1], maps[3] = model.SGIM_obj_refine_pixel(shallow, deep), model.PLAM_pixel_refine_obj(shallow, deep)
        return remember(maps)

    def remember(maps):
        logits, coarse = model.decode_forward(maps, return_raw=True)
        model.Mem0.add_mask_to_memory(maps[1], coarse)
        model.Mem1.add_mask_to_memory(maps[3], coarse)
        return logits[0]

    with torch.inference_mode(not request["compiled"]), torch.no_grad():
        model.reset_mem()
        logits = [remember(model.encode_forward(clip[0][0], clip[1][0]))]
        logits += [step(t) for t in range(1, len(clip[0]))]
        np.save(request["logits"], np.stack([x.numpy().reshape(x.shape[-2:]) for x in logits]))
        last = len(clip[0]) - 1
        features = model.encode_forward(clip[0][last], clip[1][last])
        coarse = model.decode_forward(features, return_raw=True)[1]
        square = torch.ones(2048, 2048)
        parts = {
            "frame": lambda: step(last),
            "encoder (two pictures)": lambda: model.encode_forward(clip[0][last], clip[1][last]),
            "shallow read-out": lambda: model.Mem0.read_out(features[1]),
            "deep read-out": lambda: model.Mem1.read_out(features[3]),
            "SGIM": lambda: model.SGIM_obj_refine_pixel(features[1], features[3]),
            "PLAM": lambda: model.PLAM_pixel_refine_obj(features[1], features[3]),
            "decoder": lambda: model.decode_forward(features, return_raw=True),
            "memorise shallow": lambda: model.Mem0.add_mask_to_memory(features[1], coarse),
            "memorise deep": lambda: model.Mem1.add_mask_to_memory(features[3], coarse),
            "matmul 2048": lambda: square @ square,
        }
        ready = {"warm_up_seconds": time.perf_counter() - began, "parts": list(parts)}
        print(json.dumps(ready | {"software": f"PyTorch {torch.__version__}"}), file=answers, flush=True)
        for command in sys.stdin:
            begin = time.perf_counter()
            parts[command.strip()]()
            seconds = time.perf_counter() - begin
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux: KiB
            print(json.dumps({"seconds": seconds, "peak_gib": peak}), file=answers, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
