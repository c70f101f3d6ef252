"""In which numbers the network computes, chosen here and never left to the platform.

JAX lets GPUs multiply float32 matrices in TensorFloat-32 (10 bits of mantissa) and TPUs in one pass of bfloat16 (7
bits) unless it is told otherwise. Here float32 means float32 everywhere.
"""

import dataclasses
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

# Name -> (type of the maps, precision of products that JAX is told). "tensorfloat32" keeps float32 maps and rounds what
# goes into products to 10 bits of mantissa on GPUs; TPUs take three passes of bfloat16, CPUs compute in float32.
_NUMBERS = {
    "float32": (jnp.float32, "highest"),
    "tensorfloat32": (jnp.float32, "tensorfloat32"),
    "bfloat16": (jnp.bfloat16, "default"),
}
DTYPES = tuple(_NUMBERS)


def compute_dtype(name: str | DTypeLike) -> tuple[jnp.dtype, str]:
    """Type of the maps, and the precision of their products in the words of `jax.default_matmul_precision`.

    Args:
        name: one of `DTYPES`, or the type that one of them names.

    Raises:
        ValueError: for anything else.
    """
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


def define_gradient(function: jax.custom_vjp, forward: Callable, backward: Callable) -> None:
    """`function.defvjp(forward, backward)`, with the products of `backward` as precise as those of `forward`.

    A backward pass is traced later than its forward pass, when `jax.default_matmul_precision` around the latter holds
    no more.
    """

    def keeping(*arguments: Any) -> tuple[Any, _Residuals]:
        outputs, residuals = forward(*arguments)
        return outputs, _Residuals(residuals, jax.config.jax_default_matmul_precision)

    def restoring(*arguments: Any) -> Any:
        *static, residuals, cotangent = arguments
        with jax.default_matmul_precision(residuals.precision):
            return backward(*static, residuals.values, cotangent)

    function.defvjp(keeping, restoring)
