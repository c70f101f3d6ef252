"""The arrays of a tree by name, and names and shapes that were expected compared with those that are there."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


def leaves_by_path(tree: Any, separator: str = "/") -> dict[str, Any]:
    """Path -> leaf, in the order of `jax.tree.leaves`; keys, fields and indices are joined by `separator`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator=separator): leaf for path, leaf in leaves}


@dataclass(frozen=True)
class Fit:
    """How given arrays compare with expected ones; true if nothing is wrong.

    Attributes:
        missing: names that were expected only.
        unused: names that are there only.
        differing: name -> (shape found, shape expected).
    """

    missing: list[str]
    unused: list[str]
    differing: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def __bool__(self) -> bool:
        return not (self.missing or self.unused or self.differing)

    def shapes(self, words: str = "{name} is {found}, expected {expected}") -> list[str]:
        """The arrays of another shape, in words."""
        return [words.format(name=n, found=found, expected=wanted) for n, (found, wanted) in self.differing.items()]

    def __str__(self) -> str:
        kinds = (("missing", self.missing), ("unused", self.unused), ("misshapen", self.shapes()))
        return "; ".join(f"{len(found)} {kind}: {', '.join(found)}" for kind, found in kinds if found)


def fit(expected: Mapping[str, Any], given: Mapping[str, Any]) -> Fit:
    """Compare arrays by name; both sides may be arrays, descriptions of arrays, or shapes."""
    shapes, found = _shapes(expected), _shapes(given)
    return Fit(
        missing=[name for name in shapes if name not in found],
        unused=[name for name in found if name not in shapes],
        differing={
            name: (found[name], shape) for name, shape in shapes.items() if found.get(name, shape) != shape
        },
    )  # fmt: skip


def not_finite(arrays: Mapping[str, Any]) -> list[str]:
    """Names of the arrays that hold a number that is infinite or none (NaN)."""
    return [name for name, array in arrays.items() if not np.isfinite(np.asarray(array)).all()]


def by_module(names: Iterable[str], universe: Iterable[str], prefix: str = "") -> list[str]:
    """`names` in order, but a module of `universe` whose entries are all among them as one 'module/* (number)'."""
    chosen, universe, shown = set(names), set(universe), []
    children: dict[str, list[str]] = {}
    for name in names:
        head, slash, _ = name[len(prefix) :].partition("/")
        children.setdefault(prefix + head + slash, []).append(name)
    for child, inside in children.items():
        if not child.endswith("/"):
            shown.append(child)
        elif len(everything := {name for name in universe if name.startswith(child)}) > 1 and everything <= chosen:
            shown.append(f"{child}* ({len(inside)})")
        else:
            shown += by_module(inside, universe, child)
    return shown


def _shapes(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(getattr(array, "shape", array)) for name, array in arrays.items()}
