"""What tests of `hmhi segment` ask of a finished or refused command."""

import re

import av
import cv2
import numpy as np


def refused(outcome, message):
    """Exit code 2, and one line that matches."""
    code, _, err = outcome
    assert code == 2, err
    (line,) = [line for line in err.strip().splitlines() if not line.endswith(" left")]  # progress apart
    assert line.startswith("error: "), line
    assert re.search(message, line), line


def masks_of(folder):
    return {path.name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((folder / "masks").iterdir())}


def same_masks(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def frames_of(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))
