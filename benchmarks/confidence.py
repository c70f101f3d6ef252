"""Calibrate the confidence that something moves by itself in a frame, for a set of weights, on clips it never saw.

    python benchmarks/confidence.py small --davis DAVIS --plot docs/images/confidence_small.png --write

Renders clips with `hmhi synthesise`'s photographic settings, as many with something that moves as without (the scene
stands still, or the camera alone moves), runs the network as `hmhi segment` does, and fits a logistic model to measures
of the frames. Reliability is of predictions for clips that the fit did not see (ten folds, whole clips). Frames are
marked below the log-odds that cost at most `LOST` of the J of all frames with an object. `--write` puts the constants
beside the weights, where `hmhi segment` finds them.
"""

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import pyplot
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hmhi_jax import process
from hmhi_jax.complete_files import write_text
from hmhi_jax.data.flow import DenseInverseSearch, neighbours_of
from hmhi_jax.data.pictures import read_picture
from hmhi_jax.data.video import Frame
from hmhi_jax.evaluation.measures import jaccard
from hmhi_jax.inference.confidence import Calibration, Lately, calibration_file, frame_measures
from hmhi_jax.inference.masks import read_logits
from hmhi_jax.inference.pipeline import Pipeline
from hmhi_jax.inference.segmenter import VideoSegmenter
from hmhi_jax.interop.weight_places import find_weights
from hmhi_jax.tools.synthetic.clips import ClipMaker
from hmhi_jax.tools.synthetic.settings import PHOTOGRAPHIC

LOST = 0.002
NOTHING = dataclasses.replace(PHOTOGRAPHIC, nothing=1.0, smoke=0.0, moving_distractors=0.0)


@dataclasses.dataclass
class Clips:
    """Of every frame: its clip, what the clip is ("moving", "still", "camera"), its measures, whether an object is in
    view, and the mask's J (of an empty truth: 0)."""

    clip: list[str] = dataclasses.field(default_factory=list)
    kind: list[str] = dataclasses.field(default_factory=list)
    measures: list[Float[np.ndarray, "6"]] = dataclasses.field(default_factory=list)
    there: list[bool] = dataclasses.field(default_factory=list)
    region: list[float] = dataclasses.field(default_factory=list)

    def add(
        self, segmenter: VideoSegmenter, clip: str, kind: str, frames: list[UInt8[np.ndarray, "H W 3"]], masks: list
    ) -> None:
        """Run the network over a clip."""
        recipe = segmenter.flow_recipe
        wanted = [(t, *neighbours_of(t, len(frames), recipe)) for t in range(len(frames))]
        flows = DenseInverseSearch(recipe).pictures(dict(enumerate(frames)), wanted)
        numbered = (Frame(t, str(t), frame) for t, frame in enumerate(frames))
        with Pipeline() as pipeline:
            for result in segmenter.results(numbered, pipeline=pipeline, flow_of=iter(flows)):
                truth = masks[result.index] > 0
                found = read_logits(result.logits, result.size, "mask") > 0
                self.clip.append(clip)
                self.kind.append(kind)
                self.measures.append(frame_measures(np.asarray(result.logits), result.flow))
                self.there.append(bool(truth.any()))
                self.region.append(jaccard(found, truth) if truth.any() else 0.0)


def lately(clip: np.ndarray, log_odds: np.ndarray) -> np.ndarray:
    """`Lately` over each clip."""
    memory: dict[str, Lately] = {}
    return np.array([memory.setdefault(name, Lately())(odds) for name, odds in zip(clip, log_odds, strict=True)])


def made_up(clips: int, seed: int) -> Iterator[tuple[str, str, list, np.ndarray]]:
    for settings, start in ((PHOTOGRAPHIC, seed), (NOTHING, seed + 1)):
        maker = ClipMaker(settings)
        for index in range(clips):
            clip = maker(start, index)
            yield f"{start}-{index}", clip.traits.get("nothing", "moving"), list(clip.frames), clip.masks


def davis(root: Path) -> Iterator[tuple[str, str, list, list]]:
    for folder in sorted((root / "JPEGImages" / "480p").iterdir()):
        truths = sorted((root / "Annotations" / "480p" / folder.name).glob("*.png"))
        frames = [read_picture(path) for path in sorted(folder.glob("*.jpg"))]
        yield folder.name, "davis", frames, [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in truths]


def plot(path: Path, name: str, sure: np.ndarray, there: np.ndarray, kind: np.ndarray) -> None:
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    bins = np.minimum((sure * 10).astype(int), 9)
    filled = [b for b in range(10) if (bins == b).any()]
    left.plot([0, 1], [0, 1], color="0.7")
    left.plot([sure[bins == b].mean() for b in filled], [there[bins == b].mean() for b in filled], "o-")
    for b in filled:
        place = (sure[bins == b].mean(), there[bins == b].mean())
        left.annotate(str((bins == b).sum()), place, textcoords="offset points", xytext=(6, -10), fontsize=8)
    left.set(
        xlabel="confidence", ylabel="share of frames with an object", title=f"{name}: reliability (frames per bin)"
    )
    groups = [("something moves", there), ("stands still", kind == "still"), ("camera alone moves", kind == "camera")]
    right.hist([sure[chosen] for _, chosen in groups], bins=20, range=(0, 1), label=[label for label, _ in groups])
    right.set(xlabel="confidence", ylabel="frames")
    right.legend()
    figure.savefig(path, dpi=80)


def calibrate(made: Clips) -> tuple[Calibration, dict, np.ndarray]:
    """The constants, how good they are, and the confidence of every frame by constants that did not see its clip."""
    clip, kind, there = np.array(made.clip), np.array(made.kind), np.array(made.there)
    measures, region = np.stack(made.measures), np.array(made.region)

    model = make_pipeline(StandardScaler(), LogisticRegression())
    unseen = cross_val_predict(model, measures, there, groups=clip, cv=GroupKFold(10), method="predict_log_proba")
    odds = unseen[:, 1] - unseen[:, 0]
    sure, late = np.exp(unseen[:, 1]), lately(clip, odds)
    steps = np.arange(-6, -0.95, 0.05)  # with a margin to "as likely as not"
    below = max(step for step in steps if region[late < step].sum() <= LOST * region[there].sum())
    fitted = model.fit(measures, there)
    scale = fitted[0].scale_
    coefficients = fitted[1].coef_[0] / scale
    intercept = float(fitted[1].intercept_[0] - coefficients @ fitted[0].mean_)
    calibration = Calibration(
        tuple(round(float(value), 5) for value in coefficients), round(intercept, 5), round(float(below), 2)
    )
    measured = {
        "frames": len(clip),
        "area_under_curve": round(float(roc_auc_score(there, sure)), 4),
        "brier": round(float(brier_score_loss(there, sure)), 4),
        "j_of_moving_frames_lost": round(float(region[late < below].sum() / region[there].sum()), 5),
        "emptied": {
            name: round(float((late[chosen] < below).mean()), 4)
            for name, chosen in (("moving", there), ("still", kind == "still"), ("camera", kind == "camera"))
        },
    }
    return calibration, measured, sure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--clips", type=int, default=60, help="of each kind")
    parser.add_argument("--seed", type=int, default=7001, help="one that no training used; the next one is used too")
    parser.add_argument("--davis", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    process.enable_compilation_cache()
    weights = find_weights(options.weights)
    segmenter = VideoSegmenter.load(weights)
    made = Clips()
    for clip in made_up(options.clips, options.seed):
        made.add(segmenter, *clip)
    calibration, measured, sure = calibrate(made)
    measured = {"clips": f"{options.clips} of each kind, seeds {options.seed} and {options.seed + 1}", **measured}
    print(calibration.to_json(weights, measured))
    if options.plot:
        plot(options.plot, weights.stem, sure, np.array(made.there), np.array(made.kind))
    if options.write:
        write_text(calibration_file(weights), calibration.to_json(weights, measured))
        print(f"{calibration_file(weights)}: written")
    for name, _, frames, masks in davis(options.davis) if options.davis else ():
        seen = Clips()
        seen.add(segmenter, name, "davis", frames, masks)
        late = lately(np.array(seen.clip), np.stack(seen.measures) @ calibration.coefficients + calibration.intercept)
        kept = np.where(late < calibration.nothing_below, 0, seen.region)
        marked = int((late < calibration.nothing_below).sum())
        print(f"{name}: {marked} of {len(late)} frames marked, J {np.mean(seen.region):.4f} -> {kept.mean():.4f}")


if __name__ == "__main__":
    main()
