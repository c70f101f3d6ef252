"""The release's data set class in a DataLoader, timed. Run by data.py with a Python that has torch and torchvision.

    PY release_loader.py CLONE FOLDER SIZE FRAMES BATCH WORKERS SECONDS

Prints one line of JSON: clips, wall and CPU seconds. Packages the release's file imports besides torch, torchvision
and OpenCV are stood in for where they are missing: mmcv by the three OpenCV and NumPy calls that are used of it,
IPython and TensorBoard (unused) by empty modules.
"""

import importlib.util
import json
import sys
import time
import types


def stand_in(name: str, **content: object) -> None:
    if importlib.util.find_spec(name.split(".")[0]) is None or name in ("torch.utils.tensorboard", "_init_paths"):
        module = types.ModuleType(name)
        vars(module).update(content)
        sys.modules[name] = module


def main() -> None:
    clone, folder, size, frames, batch, workers, seconds = sys.argv[1:]
    import cv2
    import numpy as np
    import torch

    cv2.setNumThreads(0)  # as the release's settings do
    torch.set_num_threads(1)
    stand_in(
        "mmcv",
        bgr2hsv=lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2HSV),
        hsv2bgr=lambda image: cv2.cvtColor(image, cv2.COLOR_HSV2BGR),
        imflip=lambda image, direction: np.flip(image, axis=1 if direction == "horizontal" else 0),
    )
    stand_in("IPython", embed=None)
    stand_in("torch.utils.tensorboard", SummaryWriter=None)
    stand_in("_init_paths")
    # A torchvision built for CUDA cannot register its detection operators beside a CPU torch; its transforms work.
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")
    sys.path.insert(0, clone)
    from utils.dataloader import train_video_data_loader

    data = train_video_data_loader(folder, int(size), data_augmentation=True, mode="train", select_num=int(frames))
    # Every video many times, so that an epoch outlasts the measurement.
    repeated = torch.utils.data.ConcatDataset([data] * 10_000)
    loader = torch.utils.data.DataLoader(
        repeated, batch_size=int(batch), num_workers=int(workers), drop_last=True, shuffle=True
    )
    batches = iter(loader)
    next(batches)
    clips, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < float(seconds):
        images, *_ = next(batches)
        clips += len(images)
    found = {"clips": clips, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    print(json.dumps(found | {"shape": list(images.shape)}))


if __name__ == "__main__":
    main()
