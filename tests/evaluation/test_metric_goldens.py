"""Scores equal those of the authors' release on the same files."""

import json
from pathlib import Path

import numpy as np
import pytest

from hmhi_jax.evaluation import evaluate, evaluate_uvos, evaluate_vsod, frame_scores

GOLDENS = Path(__file__).parent / "goldens"
DAVIS_GOLDENS = Path(__file__).resolve().parents[3] / "shared" / "goldens" / "metrics_davis"


@pytest.fixture(params=["made up", "DAVIS"])
def goldens(request) -> Path:
    folder = GOLDENS if request.param == "made up" else DAVIS_GOLDENS
    if not folder.is_dir():
        pytest.skip("the scores of real videos are not beside this checkout")
    return folder


def test_region_and_boundary_equal_the_release(goldens):
    expected = json.loads((goldens / "expected.json").read_text())
    scores = evaluate_uvos(goldens / "pred", goldens / "gt", protocol="davis16")
    assert scores.complete
    assert set(scores.videos) == set(expected) - {"vsod_all"}
    for name, video in scores.videos.items():
        for measure in ("J", "F"):
            np.testing.assert_allclose(video.per_frame[measure], expected[name][measure], atol=1e-6, rtol=0)
            for figure in ("mean", "recall", "decay"):
                assert video[f"{measure}_{figure}"] == pytest.approx(expected[name][f"{measure}_{figure}"], abs=1e-6)
    mean_j = np.mean([expected[name]["J_mean"] for name in scores.videos])
    mean_f = np.mean([expected[name]["F_mean"] for name in scores.videos])
    assert scores["J_mean"] == pytest.approx(mean_j, abs=1e-6)
    assert scores["JF_mean"] == pytest.approx((mean_j + mean_f) / 2, abs=1e-6)


def test_saliency_equals_the_release(goldens):
    expected = json.loads((goldens / "expected.json").read_text())
    scores = evaluate_vsod(goldens / "pred", goldens / "gt", extra=False)
    for figure, value in expected["vsod_all"].items():
        assert scores[figure] == pytest.approx(value, abs=1e-4)
    for name, video in scores.videos.items():
        for figure, value in expected[name]["vsod"].items():
            assert video[figure] == pytest.approx(value, abs=1e-4)
    assert scores.curves["F"].shape == scores.curves["E"].shape == (256,)
    assert scores.curves["F"].max() == scores["max_F"]


def test_several_protocols_and_readings_in_one_pass_equal_single_ones():
    folders = GOLDENS / "pred", GOLDENS / "gt"
    together = evaluate(*folders, ["davis16", "davis16-inner", "vsod"], ["plain", "release"])
    assert [(s.protocol.name, s.reading) for s in together] == [
        (protocol, reading) for reading in ("plain", "release") for protocol in ("davis16", "davis16-inner", "vsod")
    ]
    assert together[0].figures == evaluate_uvos(*folders).figures
    assert together[4].figures == evaluate_uvos(*folders, "davis16-inner", "release").figures
    assert together[5].figures == evaluate_vsod(*folders, reading="release", extra=False).figures
    # The made-up predictions do not reach white: stretching them changes the masks.
    assert together[0]["J_mean"] != together[3]["J_mean"]


def test_processes_change_nothing(monkeypatch):
    monkeypatch.setattr(frame_scores, "_WORTH_PROCESSES", 0)
    folders = GOLDENS / "pred", GOLDENS / "gt"
    alone, together = (evaluate(*folders, ["davis16", "vsod"], workers=workers) for workers in (1, 3))
    for one, other in zip(alone, together, strict=True):
        assert one.to_json() == other.to_json()
