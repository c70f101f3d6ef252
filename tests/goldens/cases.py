"""Reads the golden cases; what a case holds is in README.md beside this file."""

import importlib.util
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from hmhi_jax.interop import from_torch
from hmhi_jax.models import HMHINet, build_model

FOLDER = Path(__file__).parent

_spec = importlib.util.spec_from_file_location("golden_recipe", FOLDER / "recipe.py")
recipe = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipe)


@dataclass(frozen=True)
class Case:
    """Arguments and expected maps of one golden clip."""

    name: str
    arguments: dict
    expected: dict[str, np.ndarray]

    @property
    def model_arguments(self) -> dict:
        return {
            "backbone": self.arguments["encoder"],
            "memory_frames": self.arguments["memory_frames"],
            "sgim": self.arguments.get("add_obj_to_pixel", True),
            "plam": self.arguments.get("add_pixel_to_obj", True),
        }

    def clip(self) -> tuple[np.ndarray, np.ndarray]:
        """Frames and flow pictures `[B, T, H, W, 3]`."""
        a = self.arguments
        return recipe.clip(a["seed"], a["batch"], a["frames"], a["size"])

    def kept(self, name: str, full: np.ndarray) -> np.ndarray:
        """The part of a full map `[B, T, h, w, C]` that the case holds."""
        part = self.arguments["kept"][name]
        return full[:, part["frames"]][:, :, :: part["stride"], :: part["stride"]]


def load(name: str) -> Case:
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return Case(name, json.loads((FOLDER / f"{name}.json").read_text()), dict(arrays))


@cache
def shapes(backbone: str) -> dict[str, list[int]]:
    return json.loads((FOLDER / f"state_dict_{backbone}.json").read_text())


def state_dict(model: HMHINet, seed: int) -> dict[str, np.ndarray]:
    """The recipe's weights of the modules that `model` has, under the release's names."""
    absent = ()
    if not model.sgim:
        absent += ("obj_reduce", "obj_to_pixel")
    if not model.plam:
        absent += ("pixel_down_sample", "pixel_to_obj", "p2o_down_linear")
    if not model.shallow_memory:
        absent += ("Mem0",)
    if not model.deep_memory:
        absent += ("Mem1",)
    kept = {key: shape for key, shape in shapes(model.backbone).items() if not key.startswith(absent or ("\0",))}
    return recipe.state_dict(kept, seed)


def model_and_variables(case: Case, **changes) -> tuple[HMHINet, dict]:
    model = build_model(**{**case.model_arguments, **changes})
    return model, from_torch(model, state_dict(model, case.arguments["seed"]))
