"""The authors' release scoring the same files: run by `evaluation.py` in the release's own Python. Prints JSON."""

import contextlib
import io
import json
import os
import sys
import time

clone, pred, gt = sys.argv[1:]
sys.path[:0] = [clone, os.path.join(clone, "utils")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

torch.Tensor.cuda = lambda self, *args, **kwargs: self  # the release calls .cuda() everywhere; there may be no GPU

from utils import val_zvos  # noqa: E402
from utils.evaluator import Eval_thread  # noqa: E402


class Videos:
    """What the release's loader gives its scorer: (name, predictions, masks) without the first and last frame."""

    def __iter__(self):
        for name in sorted(os.listdir(gt)):
            yield name, self.read(os.path.join(pred, name)), self.read(os.path.join(gt, name))

    def __len__(self):
        return len(os.listdir(gt))

    @staticmethod
    def read(folder):
        paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder))[1:-1]]
        return torch.from_numpy(np.stack([np.array(Image.open(path).convert("L")) for path in paths])).float().div(255)


with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    start = time.perf_counter()
    j, f = val_zvos.eval_JF_from_data(0, 0, "files", gt, pred)
    uvos = time.perf_counter() - start
    start = time.perf_counter()
    figures, _ = Eval_thread(Videos(), "method", "files").run()
    vsod = time.perf_counter() - start
scores = dict(zip(("MAE", "max_F", "max_E", "S"), figures, strict=True))
print(json.dumps({"uvos": uvos, "vsod": vsod, "J": float(j), "F": float(f), **scores}))
