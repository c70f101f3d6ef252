"""Where CPUs, GPUs and TPUs want different formulations of the same mathematics, and in which numbers they compute: the
choices are made here and never left to the platform.

`by_platform` picks at lowering, not at tracing: one traced program can be compiled ahead of time for chips this machine
does not have, or exported for several at once. `differentiated_as` keeps formulations that are only good for values out
of the backward pass.
"""

import dataclasses
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array

# Name (`jax.ad_checkpoint.checkpoint_name`) of results that take long to compute and little memory to keep: what
# attention, feed-forwards and convolutions over several pixels give.
COSTLY = "costly"


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
    return checkpoint_name(x, COSTLY)


def _same(x: Array) -> Array:
    return x


# Marks what takes long to compute: an array as it is, under the name `COSTLY` where it is differentiated, so that
# programs of inference know nothing of it.
costly = differentiated_as(_named, _same)


# JAX lets GPUs multiply float32 matrices in TensorFloat-32 (10 bits of mantissa) and TPUs in one pass of bfloat16 (7
# bits) unless it is told otherwise. Here float32 means float32 everywhere.
#
# Name -> (type of the maps, precision of products that JAX is told). "tensorfloat32" keeps float32 maps and rounds what
# goes into products to 10 bits of mantissa on GPUs; TPUs take three passes of bfloat16, CPUs compute in float32.
_NUMBERS = {
    "float32": (jnp.float32, "highest"),
    "tensorfloat32": (jnp.float32, "tensorfloat32"),
    "bfloat16": (jnp.bfloat16, "default"),
}
DTYPES = tuple(_NUMBERS)


def compute_dtype(name: str | DTypeLike) -> tuple[jnp.dtype, str]:
    """Type of the maps, and the precision of their products in the words of `jax.default_matmul_precision`. `name` is
    one of `DTYPES`, or the type that one of them names. Raises `ValueError` for anything else."""
    text = name if isinstance(name, str) else jnp.dtype(name).name
    if text not in _NUMBERS:
        raise ValueError(f"dtype is {text!r}; it must be one of {', '.join(map(repr, DTYPES))}")
    dtype, precision = _NUMBERS[text]
    return jnp.dtype(dtype), precision


def in_precision(method: Callable) -> Callable:
    """A method of a network whose products are computed as its attribute `precision` says, whatever the platform's
    habit."""

    @wraps(method)
    def run(self: Any, *arguments: Any, **settings: Any) -> Any:
        with jax.default_matmul_precision(self.precision):
            return method(self, *arguments, **settings)

    return run


@partial(jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["precision"])
@dataclasses.dataclass(frozen=True)
class _Residuals:
    values: Any
    precision: str | None


def define_gradient(function: jax.custom_vjp, backward: Callable, forward: Callable | None = None) -> None:
    """`function.defvjp(forward, backward)`, with the products of `backward` as precise as those of `forward`. Without a
    `forward`, the residuals are the function's (differentiable) arguments.

    A backward pass is traced later than its forward pass, when `jax.default_matmul_precision` around the latter holds
    no more.
    """

    def keeping(*arguments: Any) -> tuple[Any, _Residuals]:
        if forward is not None:
            outputs, residuals = forward(*arguments)
        else:
            outputs = function.fun(*arguments)
            residuals = tuple(x for place, x in enumerate(arguments) if place not in function.nondiff_argnums)
        return outputs, _Residuals(residuals, jax.config.jax_default_matmul_precision)

    def restoring(*arguments: Any) -> Any:
        *static, residuals, cotangent = arguments
        with jax.default_matmul_precision(residuals.precision):
            return backward(*static, residuals.values, cotangent)

    function.defvjp(keeping, restoring)
