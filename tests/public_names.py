"""The public names as somebody else's program uses them; `make lint` checks that their types say what these expect."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, assert_type

import jax
import numpy as np

import hmhi_jax as hmhi


def network(frames: np.ndarray, flows: np.ndarray) -> tuple[jax.Array, dict[str, np.ndarray]]:
    """Logits of a clip by fresh weights, and these weights under the release's names."""
    model = hmhi.build_model("mit_tiny", memory_frames=2, sgim=True, plam=True, shallow_memory=True, deep_memory=True)
    assert_type(model, hmhi.HMHINet)
    variables: Any = model.init(jax.random.key(0), frames, flows)
    logits = hmhi.segment_clip(model, variables, frames, flows)
    assert_type(logits, jax.Array)
    state_dict = hmhi.interop.to_torch(model, variables)
    assert_type(state_dict, dict[str, np.ndarray])
    hmhi.interop.from_torch(model, state_dict)
    return logits, state_dict


def loss(logits: jax.Array, masks: jax.Array) -> jax.Array:
    """The release's loss."""
    return hmhi.training.losses.segmentation_loss(logits, masks)


def flow(first: np.ndarray, second: np.ndarray, state_dict: dict[str, np.ndarray]) -> jax.Array:
    """Learned optical flow between two batches of pictures."""
    flow_model = hmhi.build_flow_model("raft_small")
    assert_type(flow_model, hmhi.flow_models.RAFT)
    variables = hmhi.interop.flow_from_torch(flow_model, state_dict)
    assert_type(hmhi.interop.flow_to_torch(variables), dict[str, np.ndarray])
    found = hmhi.estimate_flow(flow_model, variables, first, second, iterations=2)
    assert_type(found, jax.Array)
    return found


def masks(weights: str | Path, frames: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Masks of a stream of frames."""
    segmenter = hmhi.VideoSegmenter.load(weights)
    assert_type(segmenter, hmhi.VideoSegmenter)
    return list(segmenter.stream(frames))


def scores(predictions: Path, truth: Path) -> tuple[float, float]:
    """J&F and MAE of predictions."""
    uvos = hmhi.evaluation.evaluate_uvos(predictions, truth, protocol="davis16")
    assert_type(uvos, hmhi.evaluation.Scores)
    vsod = hmhi.evaluation.evaluate_vsod(predictions, truth)
    return uvos["JF_mean"], vsod["MAE"]
