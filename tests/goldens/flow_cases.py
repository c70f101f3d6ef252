"""Reads torchvision's golden flow; what a case holds is in README.md beside this file."""

import json
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np

from goldens.cases import FOLDER, recipe, shapes
from hmhi_jax.flow_models import RAFT, build_flow_model
from hmhi_jax.interop import flow_from_torch

# In the order in which they are computed: the first that is off names the part that is wrong.
MAPS = ("features", "context", "correlation0", "hidden1", "flow1", "flow6", "hidden12", "flow12")


class FlowCase(NamedTuple):
    model: RAFT
    state_dict: dict[str, np.ndarray]
    variables: Any
    first: np.ndarray
    second: np.ndarray
    expected: dict[str, np.ndarray]


@cache
def load(name: str) -> FlowCase:
    """Drawn weights under torchvision's names and as variables, a pair of pictures, and torchvision's maps of it."""
    arguments = json.loads((FOLDER / f"{name}.json").read_text())
    model = build_flow_model(arguments["network"])
    state_dict = recipe.flow_state_dict(shapes(name), arguments["seed"])
    pair = recipe.flow_pair(arguments["pair_seed"], arguments["height"], arguments["width"], arguments["batch"])
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return FlowCase(model, state_dict, flow_from_torch(model, state_dict), *pair, dict(arrays))


@cache
def _programs(name: str) -> dict[str, Any]:
    model = load(name).model

    def of(method: str) -> Any:
        return jax.jit(lambda variables, *inputs: model.apply(variables, *inputs, method=method))

    return {method: of(method) for method in ("encode", "encode_context", "start", "correlations", "step", "upsample")}


def maps(name: str, variables: Any) -> dict[str, np.ndarray]:
    """Our maps of a case, step by step, with any variables."""
    case, run = load(name), _programs(name)
    features = [run["encode"](variables, pictures) for pictures in (case.first, case.second)]
    context = run["encode_context"](variables, case.first)
    match, state = run["start"](variables, *features, context)
    found = {"features": features[0], "context": context}
    found["correlation0"] = run["correlations"](variables, match, state.flow)
    for iteration in range(1, 13):
        state = run["step"](variables, match, state)
        if iteration in (1, 12):
            found[f"hidden{iteration}"] = state.hidden
        if iteration in (1, 6, 12):
            found[f"flow{iteration}"] = run["upsample"](variables, state)
    return {each: np.asarray(found[each]) for each in MAPS}
