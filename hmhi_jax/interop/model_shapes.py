"""Names and shapes of a network's variables, without computing anything; derived once on a machine, then read back.

Tracing `init` takes seconds, and all that is wanted of it is a table of a few hundred lines. So the table is kept in
the folder of caches, under a digest of everything it depends on: the sources of `models` and `kernels`, the versions of
JAX and Flax, and the switches. What cannot be read or does not look like a table is derived anew.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

import hmhi_jax
from hmhi_jax.complete_files import write_text
from hmhi_jax.interop.fit import leaves_by_path
from hmhi_jax.models import HMHINet
from hmhi_jax.models.backbones import spec
from hmhi_jax.process import cache_folder

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
    """The table under its digest; a backbone that others registered may change behind our back and is not kept."""
    entry = spec(backbone)
    home = getattr(entry.build, "__module__", "")
    if not home.startswith(f"{hmhi_jax.__name__}."):
        return leaves_by_path(derive())
    of_backbone = {**vars(entry), "build": f"{home}.{entry.build.__qualname__}"}
    versions = (jax.__version__, flax.__version__, _digest_of_sources())
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


@functools.cache
def _digest_of_sources() -> str:
    digest = hashlib.sha256()
    package = Path(hmhi_jax.__file__).parent
    for folder in _SOURCES:
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()
