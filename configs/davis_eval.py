"""Scores of a set of weights on DAVIS-2016, by every protocol that makes sense for it.

python eval.py --config configs/davis_eval.py --workdir runs/davis_eval \
    --config.eval.weights=runs/davis/weights.safetensors --config.eval.root=data

Expects `<root>/DAVIS` as it is downloaded (JPEGImages/480p, Annotations/480p, ImageSets). `reading` is what the
release does to predictions before they are thresholded; "release,plain" gives both. What it costs and gives:
docs/evaluation.md.
"""

from ml_collections import ConfigDict

from hmhi_jax.runs.evaluation_config import default_evaluation


def get_config() -> ConfigDict:
    c = default_evaluation()
    c.eval.sets = (
        {"path": "DAVIS", "name": "davis16", "split": "val", "protocol": ("davis16", "davis16-inner", "vsod")},
    )
    return c
