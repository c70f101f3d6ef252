"""Mean and adaptive F and E and weighted F of one frame, from the PySODMetrics package.

Its definitions are those of salient object detection and differ from the release's (`saliency`): every prediction is
stretched to 0..1 per frame whatever the reading, the truth is what exceeds 128, empty truths have cases of their own.
So the names carry `sod_` and never stand in for the release's.
"""

import numpy as np
from jaxtyping import Bool, UInt8

EXTRA_MEASURES = ("sod_mean_F", "sod_adaptive_F", "sod_mean_E", "sod_adaptive_E", "sod_weighted_F")


def extra_measures(prediction: UInt8[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"]) -> dict[str, float]:
    """The five figures of one frame: the mean over 256 thresholds, the figure at twice the frame's mean, weighted F.

    Weighted F: Margolin et al., CVPR 2014 (beta = 1). The others: beta squared .3.
    """
    import py_sod_metrics as sod

    handler = sod.FmeasureHandler(with_dynamic=True, with_adaptive=True, beta=0.3)
    f_measure, e_measure, weighted = sod.FmeasureV2({"F": handler}), sod.Emeasure(), sod.WeightedFmeasure()
    grey = truth.view(np.uint8) * np.uint8(255)
    for measure in (f_measure, e_measure, weighted):
        measure.step(prediction, grey)
    f, e = f_measure.get_results()["F"], e_measure.get_results()["em"]
    values = f["dynamic"].mean(), f["adaptive"], e["curve"].mean(), e["adp"], weighted.get_results()["wfm"]
    return {name: float(value) for name, value in zip(EXTRA_MEASURES, values, strict=True)}
