"""The section `forms` of `benchmarks/accelerator.py`: formulations of the same operation side by side."""

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from accelerator_measuring import Results, compiled_together, sampled, setup
from jax import lax

from hmhi_jax.kernels import attention, convolution, top_k_attention


def forms(request: dict) -> None:
    """Formulations of the same operation side by side: which one is the platform's."""
    setup()
    results = Results(request, "forms")
    scale = 4 if request["small"] else 1
    rng = np.random.default_rng(0)

    def draw(*shape: int, dtype: Any = jnp.bfloat16) -> Any:
        return jnp.asarray(rng.normal(0, 1, shape).astype(np.float32), dtype)

    def plain_top_k(stable: bool, q: Any, k: Any, v: Any, limit: Any) -> Any:
        scores = jnp.einsum("bnc,bmc->bnm", q, k, preferred_element_type=jnp.float32)
        scores = jnp.where((jnp.arange(k.shape[1]) < limit)[None, None], scores, -jnp.inf)
        best, index = lax.top_k(scores, 50, **({} if stable else {"is_stable": False}))
        weights = jax.nn.softmax(best, -1)
        return jnp.einsum(
            "bnk,bnkd->bnd", weights.astype(v.dtype), jax.vmap(lambda rows, places: rows[places])(v, index)
        )

    def in_precision(precision: str, x: Any, kernel: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return convolution.plain_conv(x, kernel)

    def dense(q: Any, k: Any, v: Any, limit: Any) -> Any:
        """No selection at all: what reading everything would take."""
        return attention.attend_whole(0.0, q[:, :, None], k[:, :, None], v[:, :, None], limit, None)

    queries, keys = 4096 // scale**2, 20480 // scale**2
    cuda = jax.default_backend() == "gpu"
    functions: dict[tuple[str, str], tuple[Callable, tuple]] = {}
    for batch in (1, 8):
        q, k, v = draw(batch, queries, 128), draw(batch, keys, 128), draw(batch, keys, 128)
        read = {
            "laid out, sorted": partial(top_k_attention.READS["accelerator"], 50),
            "lax.top_k": partial(plain_top_k, True),
            "lax.top_k, not stable": partial(plain_top_k, False),
            "all keys, no selection": dense,
        }
        if cuda:
            read["bisection in registers"] = partial(top_k_attention.READS["cuda"], 50)
        for name, form in read.items():
            functions[f"shallow read of {batch}", name] = jax.jit(form), (q, k, v, jnp.int32(keys))
    for name, heads, n, m, d, rows in (
        ("self-attention of the shallow bank", 1, queries, queries, 128, 1),
        ("SGIM", 1, queries, queries // 16, 128, 1),
        ("MiT stage 1", 1, 4 * queries, queries // 16, 64, 2),
        ("MiT stage 3", 5, queries // 4, queries // 16, 64, 2),
    ):
        q, k, v = draw(rows, n, heads, d), draw(rows, m, heads, d), draw(rows, m, heads, d)
        attends = {
            "whole": lambda q, k, v: attention.attend_whole(0.0, q, k, v, None, None),
            "pieces of 2^20 scores": lambda q, k, v: attention.attend_batched(2**20, 0.0, q, k, v, None, None),
        }
        if cuda:
            attends["cuDNN"] = partial(jax.nn.dot_product_attention, implementation="cudnn")
        for form_name, form in attends.items():
            functions[name, form_name] = jax.jit(form), (q, k, v)
            gradient = jax.grad(lambda q, k, v, form=form: form(q, k, v).astype(jnp.float32).sum(), (0, 1, 2))
            functions[f"{name}, gradient", form_name] = jax.jit(gradient), (q, k, v)
    for dtype in (jnp.bfloat16, jnp.float32):
        text = jnp.dtype(dtype).name
        for name, shape, size in (
            ("depthwise 3x3, MiT stage 1", (2, 128, 128, 256), 3), ("depthwise 3x3, MiT stage 3", (2, 32, 32, 1280), 3),
            ("depthwise 7x7, shallow", (1, 64, 64, 128), 7),
        ):  # fmt: skip
            shape = (shape[0], shape[1] // scale, shape[2] // scale, shape[3])
            x, kernel = draw(*shape, dtype=dtype), draw(size, size, 1, shape[-1], dtype=dtype)
            for form_name, form, gradient in (
                ("native", convolution._grouped_native, convolution._kernel_gradient_native),
                ("shifted", convolution._depthwise_shifted, convolution._kernel_gradient_shifted),
            ):
                functions[f"{name}, {text}", form_name] = jax.jit(form), (x, kernel)
                functions[f"{name}, {text}, kernel's gradient", form_name] = jax.jit(gradient), (x, kernel, x)
        x, kernel = draw(1, 64 // scale, 64 // scale, 128, dtype=dtype), draw(7, 7, 1, 512, dtype=dtype)
        for form_name, form in (
            ("native", convolution._grouped_native), ("patches", convolution._grouped_patches),
            ("shifted", convolution._grouped_shifted),
        ):  # fmt: skip
            functions[f"PLAM's channelwise 7x7, {text}", form_name] = jax.jit(partial(form, stride=4)), (x, kernel)
        x, kernel = draw(1, 128 // scale, 128 // scale, 512, dtype=dtype), draw(3, 3, 512, 256, dtype=dtype)
        for precision in ("highest", "tensorfloat32") if dtype == jnp.float32 else ("default",):
            functions[f"decoder's 3x3, {text}", precision] = jax.jit(partial(in_precision, precision)), (x, kernel)
    programs = compiled_together(functions)
    for (name, form), program in programs.items():
        if isinstance(program, str):
            results.put(name, form, value={"error": program})
            continue
        try:
            results.put(name, form, value=sampled(partial(program, *functions[name, form][1]), 10))
        except RuntimeError as error:
            results.put(name, form, value={"error": str(error).splitlines()[0][:200]})


if __name__ == "__main__":
    forms(json.loads(sys.argv[1]))
