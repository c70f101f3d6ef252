"""Video salient object detection: DAVIS and DAVSOD together, chosen by S-measure and MAE on DAVSOD.

    hmhi flow data/DAVIS && hmhi flow data/DAVSOD
    python train.py --config configs/vsod_mit_b1.py --workdir runs/vsod_mit_b1 \
        --config.data.root=data --config.init_from=runs/ytvos_mit_b1

Data: the 30 training videos of DAVIS-2016 four times an epoch and the 61 of DAVSOD once; masks are those of all
salient objects. Validation: test videos of DAVSOD and DAVIS by the VSOD protocol; the best has the lowest MAE on the
first.
Cost as `davis_mit_b1`. Not run to the end by this project.
"""

from ml_collections import ConfigDict

from configs import davis_mit_b1


def get_config() -> ConfigDict:
    c = davis_mit_b1.get_config()
    c.data.sources = (
        {"path": "DAVIS", "split": "train", "repeats": 4},
        {"path": "DAVSOD", "split": "Training Set"},
    )
    c.evaluation.sets = (
        {"path": "DAVSOD", "split": "Easy-35", "name": "davsod", "protocol": "vsod"},
        {"path": "DAVIS", "split": "val", "name": "davis16", "protocol": "vsod"},
    )
    return c
