"""Where a run's first weights come from.

The order, checked case by case in `starting_state`:

1. The run's own newest readable checkpoint: everything goes on as if it had never stopped.
2. `init_from`, a weights file (a converted backbone, or a whole network) or another run's folder: weights laid over
   fresh ones; the optimiser fresh, or kept where the other run's is asked for; step, averages and data start anew.
3. Fresh weights from the seed: drawn as published, or scaled so that a small network learns without a pre-trained
   encoder. The release draws every linear layer of the encoder with deviation .02 and every convolution of the decoder
   with .01 (docs/model.md 2.1, 7), which suits wide layers over an ImageNet encoder. In a network a tenth as wide those
   layers pass on a few per cent of what they get, and hundreds of steps go by before gradients reach the encoder.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh
from jaxtyping import Array
from ml_collections import ConfigDict

from hmhi_jax import kept_programs
from hmhi_jax.errors import InputError
from hmhi_jax.interop.checkpoint_folders import read_run
from hmhi_jax.interop.conversion import variables_of
from hmhi_jax.interop.identify import identify
from hmhi_jax.interop.shapes import fit, leaves_by_path, not_finite
from hmhi_jax.interop.weight_sources import read_source
from hmhi_jax.models import HMHINet
from hmhi_jax.training.assemble import Parts
from hmhi_jax.training.checkpoints import Checkpoints, Restored, abstract
from hmhi_jax.training.config import check_initialisation, check_same, to_plain
from hmhi_jax.training.mesh import replicated
from hmhi_jax.training.step import TrainState, known_options, make_state

# What an ImageNet backbone has never seen, and so may be missing from a source that otherwise has the encoder.
_OPTIONAL = re.compile(r"(^|/)(\w*_)?adapter(/|$)|encoder/reduction/")
_BLOCK = re.compile(r"encoder/stage(\d+)_block(\d+)")


def starting_state(
    config: ConfigDict,
    parts: Parts,
    mesh: Mesh,
    checkpoints: Checkpoints,
    accepted: Sequence[str] = (),
    while_drawing: Callable[[TrainState], None] = lambda like: None,
) -> tuple[TrainState, Restored | None, list[str]]:
    """The state to start from, on the mesh.

    Args:
        accepted: fields in which a checkpoint's config may differ from this run's.
        while_drawing: called with the state's shapes while weights are drawn in case 3.

    Returns state; what was restored in case 1; notes for the user on what was taken and what is fresh. Raises
    `InputError` for a checkpoint of other settings, or weights that cannot be read or do not fit.
    """
    place, ema = replicated(mesh), config.step.ema_decay > 0

    def made(variables: Any) -> TrainState:
        return make_state(variables, parts.optimiser, config.seed, ema)

    def check(stored: dict[str, Any]) -> None:
        check_same(stored.get("config", {}), to_plain(config), str(checkpoints.folder.parent), accepted)

    def drawn() -> TrainState:
        return made(init_variables(parts.model, config.seed, config.initialisation))

    def lower() -> jax.stages.Lowered:
        # Hundreds of small random draws that run once: on CPU, optimising them costs more than all the rest of it.
        quick = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
        options = known_options(quick) if jax.default_backend() == "cpu" else None
        return jax.jit(drawn, out_shardings=place, compiler_options=options).lower()

    # Independent of the run's length, unlike the step.
    settings = f"{config.optimiser.to_json()} {ema} {config.seed} {config.initialisation} {mesh}"
    what, devices = parts.network and f"first state {parts.network} {settings}", list(mesh.devices.flat)
    # The shapes of what is drawn, whose tracing then serves the drawing too.
    like = abstract(kept_programs.shapes(what, (), lambda: jax.eval_shape(drawn), devices), place)
    if restored := checkpoints.restore_newest(like, check):
        return restored.state, restored, [f"going on from step {restored.step}"]

    def draw() -> TrainState:
        return kept_programs.program(what, (), lower, devices)()

    if not config.init_from:
        with ThreadPoolExecutor(1) as beside:  # most of it is compiling, for which XLA needs no Python
            drawing = beside.submit(draw)
            while_drawing(like)
        note = f"fresh weights, seed {config.seed}, {config.initialisation} initialisation"
        return drawing.result(), None, [note]
    loaded, opt_state = _source(config)
    variables, notes = overlay(draw().variables(), loaded, config.init_from)
    state = jax.jit(made, out_shardings=place)(jax.tree.map(lambda x: jax.device_put(x, place), variables))
    if opt_state is not None:
        state = state.replace(opt_state=_kept_optimiser(state.opt_state, opt_state, config.init_from, place))
        notes.append("optimiser state kept")
    return state, None, notes


def _source(config: ConfigDict) -> tuple[Mapping[str, Any], Any | None]:
    """What `config.init_from` names, weights of any kind or another run; with that run's optimiser if it is kept."""
    if config.init_optimiser not in ("fresh", "kept"):
        raise InputError(f"config.init_optimiser is {config.init_optimiser!r}, expected 'fresh' or 'kept'")
    if config.init_optimiser == "kept":
        return read_run(Path(config.init_from).expanduser())
    source = read_source(config.init_from)
    return unflatten_dict(source.entries, sep="/") if source.ours else variables_of(identify(source)), None


def overlay(fresh: Mapping[str, Any], loaded: Mapping[str, Any], name: str) -> tuple[dict[str, Any], list[str]]:
    """`fresh` variables with every array that `loaded` has put in its place.

    A part of the network (encoder, decoder, a bank, ...) may be missing as a whole, flow adapters always, and so what
    reduces the deepest map. An encoder that ends earlier than the one it comes from (`efficientnet_lite0_160`) leaves
    the blocks behind its last one out. Anything else missing, left over or of another shape is refused, all in one
    message. Returns the variables and notes on what was taken and what stays fresh.
    """
    mine, theirs = leaves_by_path(dict(fresh)), leaves_by_path(dict(loaded))

    def part(text: str) -> str:
        return "/".join(text.split("/")[:2])

    last = max(map(_block, mine))
    beyond = {text: _BLOCK.search(text)[0] for text in theirs if _block(text) > last > (0, 0)}
    theirs = {text: leaf for text, leaf in theirs.items() if text not in beyond}
    present = {part(text) for text in theirs}
    compared = fit(mine, theirs)
    problems = [f"{text} is not in this network" for text in compared.unused]
    problems += compared.shapes("{name} has shape {found}, expected {expected}")
    problems += [
        f"{text} is missing" for text in compared.missing if part(text) in present and not _OPTIONAL.search(text)
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise InputError(f"init_from {name}: does not fit the network of this config: {shown}; check config.model")
    if not theirs:
        raise InputError(f"init_from {name}: holds no weights")
    if broken := not_finite(theirs):
        raise InputError(f"init_from {name}: {len(broken)} arrays are not finite, first {broken[0]}")
    merged = jax.device_put([np.asarray(theirs.get(text, leaf), leaf.dtype) for text, leaf in mine.items()])
    notes = [f"{len(theirs)} of {len(mine)} arrays from {name}"]
    if beyond:
        notes.append(f"left out, beyond this network's encoder: {', '.join(sorted({*beyond.values()}))}")
    if stay := sorted({part(text) for text in compared.missing if part(text) not in present}):
        notes.append(f"fresh: {', '.join(text.split('/', 1)[-1] for text in stay)}")
    if any(part(text) in present for text in compared.missing):
        notes.append("fresh: flow adapters")
    return jax.tree.unflatten(jax.tree.structure(dict(fresh)), merged), notes


def _block(path: str) -> tuple[int, int]:
    """Stage of an encoder, from 1 on, and number of the block that a path leads into; (0, 0) if it leads into none."""
    found = _BLOCK.search(path)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _kept_optimiser(mine: Any, theirs: Any, name: str, place: jax.sharding.Sharding) -> Any:
    """Their optimiser state as a tree of ours: with the same settings both flatten to the same arrays."""
    have, want = jax.tree.leaves(theirs), jax.tree.leaves(mine)
    if [tuple(x.shape) for x in have] != [tuple(x.shape) for x in want]:
        raise InputError(
            f"init_from {name}: its optimiser state ({len(have)} arrays) does not fit this config's ({len(want)}); "
            "set init_optimiser = 'fresh', or the same frozen parts and clipping"
        )
    leaves = [jax.device_put(jnp.asarray(np.asarray(x), y.dtype), place) for x, y in zip(have, want, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(mine), leaves)


_FOREGROUND_LOGIT = -2.0  # about an eighth of a picture is foreground


def init_variables(model: HMHINet, seed: int, initialisation: str = "published") -> dict[str, Any]:
    """Fresh variables; the same for a seed on every mesh. Parameters do not depend on the pictures' size.
    `initialisation`: "published", as the release draws them, or "fan_in", see `fan_in_scaled`. Raises `InputError` for
    another name."""
    check_initialisation(initialisation)
    return _drawn_variables(model, seed, initialisation)


@partial(jax.jit, static_argnums=(0, 1, 2))  # op by op it would take minutes
def _drawn_variables(model: HMHINet, seed: int, initialisation: str) -> dict[str, Any]:
    pictures = jnp.zeros((1, 2, 64, 64, 3), jnp.float32)
    variables = dict(model.init(jax.random.PRNGKey(seed), pictures, pictures))
    if initialisation == "fan_in":
        variables["params"] = fan_in_scaled(variables["params"], jax.random.fold_in(jax.random.PRNGKey(seed), 2))
    return variables


def fan_in_scaled(params: Any, key: Array) -> Any:
    """The parameters with some kernels drawn anew, so that every layer passes on about as much as it gets.

    - Linear layers of the encoder: truncated normal of deviation `fan_in ** -0.5`; half of that where they end a
      residual branch, a tenth where they end a flow adapter.
    - Convolutions of the decoder, its gates aside: He's normal. The last one stays small, with a bias that says
      "background", so that the loss begins where a constant prediction would leave it.

    All others keep what they have.
    """
    leaves = leaves_by_path(params)
    keys = jax.random.split(key, len(leaves))
    drawn = [_drawn(name, leaf, keys[i]) for i, (name, leaf) in enumerate(leaves.items())]
    return jax.tree.unflatten(jax.tree.structure(params), drawn)


def _drawn(name: str, leaf: Array, key: Array) -> Array:
    if name == "decoder/predictor/bias":
        return jnp.full_like(leaf, _FOREGROUND_LOGIT)
    if not name.endswith("/kernel"):
        return leaf
    deviation = math.prod(leaf.shape[:-1]) ** -0.5
    if name.startswith("encoder/") and leaf.ndim == 2:
        if re.search(r"adapter/up/", name):
            deviation *= 0.1
        elif re.search(r"/(out|project)/", name):
            deviation *= 0.5
        return deviation * jax.random.truncated_normal(key, -2, 2, leaf.shape, leaf.dtype)
    if re.match(r"decoder/(lateral|blend)\d/", name):
        return math.sqrt(2) * deviation * jax.random.normal(key, leaf.shape, leaf.dtype)
    return leaf
