"""Where CPUs, GPUs and TPUs want different formulations of the same mathematics, the choice is made here.

`by_platform` picks at lowering, not at tracing: one traced program can be compiled ahead of time for chips this machine
does not have, or exported for several at once. `differentiated_as` keeps formulations that are only good for values out
of the backward pass.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

# Name (`jax.ad_checkpoint.checkpoint_name`) of results that take long to compute and little memory to keep: what
# attention, feed-forwards and convolutions over several pixels give.
DEAR = "dear"


def by_platform(*arguments, cpu: Callable, accelerator: Callable, **special: Callable) -> Any:
    """`cpu(*arguments)` when compiled for CPU, `special["tpu"](*arguments)` (or "cuda", "rocm") where given,
    `accelerator(*arguments)` elsewhere. All return the same shapes and types."""
    return lax.platform_dependent(*arguments, cpu=cpu, **special, default=accelerator)


def differentiated_as(plain: Callable, fast: Callable) -> Callable:
    """A function that computes `fast` where only its value is wanted and `plain` under reverse-mode differentiation.

    Both take the same positional arrays and give the same value; what the backward pass needs of `plain` is kept as
    `jax.vjp` keeps it.
    """
    function = jax.custom_vjp(fast)
    function.defvjp(lambda *arguments: jax.vjp(plain, *arguments), lambda pullback, cotangent: pullback(cotangent))
    return function


def gradient_of(form: Callable, count: int) -> Callable:
    """A function of a cotangent and the arguments of `form` that gives the gradients of the first `count` of them.

    For a custom backward pass that differentiates one platform's form: where JAX differentiates `by_platform` itself,
    it keeps what all of them need.
    """

    def gradient(cotangent: Array, *arguments) -> tuple[Array, ...]:
        rest = arguments[count:]
        return jax.vjp(lambda *first: form(*first, *rest), *arguments[:count])[1](cotangent)

    return gradient


def _named(x: Array) -> Array:
    return checkpoint_name(x, DEAR)


def _same(x: Array) -> Array:
    return x


# Marks what takes long to compute: an array as it is, under the name `DEAR` where it is differentiated, so that
# programs of inference know nothing of it.
dear = differentiated_as(_named, _same)
