"""Names and shapes: of the arrays of a tree, of a network's variables, and expected ones compared with those there are.

Tracing a network's `init` takes seconds, and all that is wanted of it is a table of a few hundred lines. So the table
is kept in the folder of caches, under a digest of everything it depends on: the sources of `models` and `kernels`, the
versions of JAX and Flax, and the switches. What cannot be read or does not look like a table is derived anew.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from hmhi_jax.complete_files import write_text
from hmhi_jax.kept_programs import digest_of_sources
from hmhi_jax.models import HMHINet
from hmhi_jax.models.backbones import described, spec
from hmhi_jax.process import cache_folder


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
        if not child.endswith("/") or child == prefix:
            shown.append(child)
        elif len(everything := {name for name in universe if name.startswith(child)}) > 1 and everything <= chosen:
            shown.append(f"{child}* ({len(inside)})")
        else:
            shown += by_module(inside, universe, child)
    return shown


def _shapes(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(getattr(array, "shape", array)) for name, array in arrays.items()}


Shapes = dict[str, jax.ShapeDtypeStruct]

_SOURCES = ("models", "kernels")
# Switches that leave no trace in the variables; the table is derived with their defaults.
_TRACELESS = ("memory_frames", "top_k", "drop_path", "batch_norm", "dtype", "precision")


def variable_shapes(model: HMHINet) -> Shapes:
    """Path ("params/encoder/...") -> shape and type of every variable of a model."""
    defaults = {name: HMHINet.__dataclass_fields__[name].default for name in _TRACELESS}
    return dict(_of_network(model.clone(**defaults)))


def abstract_variables(model: HMHINet) -> dict[str, Any]:
    """The same, nested as `model.init` gives it."""
    return unflatten_dict(variable_shapes(model), sep="/")


def encoder_shapes(backbone: str, flow_adapters: bool) -> Shapes:
    """The same of an encoder alone, under the paths it has in a network."""
    return dict(_of_encoder(backbone, flow_adapters))


@functools.lru_cache(maxsize=8)
def _of_network(model: HMHINet) -> Shapes:
    clip = jax.ShapeDtypeStruct((1, 2, 64, 64, 3), jnp.float32)
    return _kept(model.backbone, repr(model), lambda: jax.eval_shape(model.init, jax.random.key(0), clip, clip))


@functools.lru_cache(maxsize=8)
def _of_encoder(backbone: str, flow_adapters: bool) -> Shapes:
    def derived() -> Any:
        encoder = spec(backbone).make(flow_adapters=flow_adapters)
        pictures = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
        shapes = jax.eval_shape(lambda key, x: encoder.init(key, x, flow_rows=1), jax.random.key(0), pictures)
        return {collection: {"encoder": tree} for collection, tree in shapes.items()}

    return _kept(backbone, f"encoder {backbone} {flow_adapters}", derived)


def _kept(backbone: str, what: str, derive: Callable[[], Any]) -> Shapes:
    """The table under its digest; of a backbone that can be told from others of its name."""
    if (of_backbone := described(backbone)) is None:
        return leaves_by_path(derive())
    versions = (jax.__version__, flax.__version__, digest_of_sources(*_SOURCES))
    digest = hashlib.sha256(repr((what, of_backbone, versions)).encode()).hexdigest()
    path = cache_folder() / "shapes" / f"{digest}.json"
    try:
        table = json.loads(path.read_text())
        kept = {name: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype)) for name, (shape, dtype) in table.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        kept = {}
    if kept:
        return kept
    shapes = leaves_by_path(derive())
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time alone
        write_text(path, json.dumps({name: (x.shape, x.dtype.name) for name, x in shapes.items()}))
    return shapes
