"""AdamW as the release sets it, and what larger runs want on top: schedules, clipping, frozen parts, rates by part."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import optax
from jaxtyping import Array

from hmhi_jax.errors import InputError
from hmhi_jax.interop.fit import leaves_by_path

# Which parameters the release's weight decay leaves out, as patterns searched in paths ("encoder/.../norm1/scale"). Its
# MiT runs decay everything; its Swin runs spare names with "norm" or the bias table, and the two norms of the mask
# path carry no such name there.
DECAY_MASKS: dict[str, str | None] = {
    "all": None,
    "spare_norms": r"^(?!.*reference_encoder/mask_(expand_)?norm/).*(norm|relative_position_bias)",
    "spare_vectors": r"/(bias|scale|gamma)$",  # the usual choice elsewhere: only matrices decay
}
BACKBONE = r"^encoder/"


def learning_rate_schedule(
    kind: str, peak: float, total_steps: int, warmup_steps: int = 0, final_fraction: float = 0.0
) -> optax.Schedule:
    """Learning rate by step.

    Args:
        kind: "constant" (the release), "cosine" or "linear" (both fall to `final_fraction * peak` at `total_steps`).
        peak: the rate after warm-up.
        total_steps: length of the run, warm-up included.
        warmup_steps: steps over which the rate rises linearly from `peak / warmup_steps`.
        final_fraction: see `kind`.
    """
    decay_steps = max(1, total_steps - warmup_steps)
    if kind == "constant":
        main = optax.constant_schedule(peak)
    elif kind == "cosine":
        main = optax.cosine_decay_schedule(peak, decay_steps, final_fraction)
    elif kind == "linear":
        main = optax.linear_schedule(peak, peak * final_fraction, decay_steps)
    else:
        raise InputError(f"optimiser.schedule is {kind!r}, expected 'constant', 'cosine' or 'linear'")
    if not warmup_steps:
        return main
    rise = optax.linear_schedule(peak / warmup_steps, peak, max(1, warmup_steps - 1))
    return optax.join_schedules([rise, main], [warmup_steps])


def parameter_paths(params: Any) -> Any:
    """A tree like `params` whose leaves are their paths, joined with '/'."""
    return jax.tree.unflatten(jax.tree.structure(params), list(leaves_by_path(params)))


def matches(pattern: str | None, params: Any) -> Any:
    """A tree of booleans: whose path the pattern is found in. None is found nowhere."""
    return jax.tree.map(lambda path: pattern is not None and bool(re.search(pattern, path)), parameter_paths(params))


def pattern_of(frozen: Iterable[str]) -> str | None:
    """One pattern for several, None for none."""
    return "|".join(f"(?:{pattern})" for pattern in frozen) or None


def held(params: Any, frozen: Iterable[str]) -> Any:
    """`params`, of which those whose path a pattern is found in count as constants: what a loss of them needs no
    gradient for is not computed."""
    return jax.tree.map(
        lambda stopped, x: jax.lax.stop_gradient(x) if stopped else x, matches(pattern_of(frozen), params), params
    )


def make_optimiser(
    schedule: optax.Schedule,
    *,
    weight_decay: float = 5e-4,
    decay_mask: str = "all",
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    clip_norm: float | None = None,
    frozen: tuple[str, ...] = (),
    rate_multipliers: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
    """AdamW with decoupled decay (PyTorch's, the decay scaled by the learning rate).

    Args:
        schedule: learning rate by step.
        weight_decay: see `decay_mask`.
        decay_mask: a key of `DECAY_MASKS`.
        b1, b2, eps: Adam's.
        clip_norm: largest global norm of the gradient of what is trained; None does not clip.
        frozen: patterns; parameters whose path one is found in neither move nor carry moments.
        rate_multipliers: pattern -> factor on the learning rate, for instance `{BACKBONE: 0.1}`; the first that is
            found in a path counts.
    """
    if decay_mask not in DECAY_MASKS:
        raise InputError(f"optimiser.decay_mask is {decay_mask!r}, expected one of {', '.join(DECAY_MASKS)}")
    multipliers = dict(rate_multipliers or {})
    stopped = pattern_of(frozen)

    def decayed(params: Any) -> Any:
        return jax.tree.map(lambda spared: not spared, matches(DECAY_MASKS[decay_mask], params))

    def scale_by_part(updates: Any) -> Any:
        def scaled(path: str, update: Array) -> Array:
            factor = next((value for pattern, value in multipliers.items() if re.search(pattern, path)), 1.0)
            return update * factor if factor != 1.0 else update

        return jax.tree.map(scaled, parameter_paths(updates), updates)

    steps = [
        *([optax.clip_by_global_norm(clip_norm)] if clip_norm else []),
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.add_decayed_weights(weight_decay, mask=decayed),
        *([optax.stateless(lambda updates, _: scale_by_part(updates))] if multipliers else []),
        optax.scale_by_learning_rate(schedule),
    ]
    trained = optax.chain(*steps)
    if stopped is None:
        return trained

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda hit: "frozen" if hit else "trained", matches(stopped, params))

    return optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, labels)


def check_patterns(params: Any, patterns: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse a pattern that is found in no path: it is a typing error, and silently training everything is worse.

    Args:
        params: the parameters (or their shapes).
        patterns: config field -> its patterns.
    """
    paths = leaves_by_path(params)
    for field, entries in patterns.items():
        for pattern in entries:
            try:
                found = any(re.search(pattern, path) for path in paths)
            except re.error as error:
                raise InputError(f"{field}: {pattern!r} is no regular expression ({error})") from error
            if not found:
                known = ", ".join(sorted({"/".join(path.split("/")[:2]) for path in paths})[:12])
                raise InputError(f"{field}: {pattern!r} is found in no parameter's path, expected such as {known}, ...")
