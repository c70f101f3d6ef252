"""Every platform's formulation of attention against the plain definition: values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from rounding import assert_rounded_alike, in_float64

from hmhi_jax.kernels import attention, top_k_attention
from hmhi_jax.kernels.attention import attend, attend_batched, attend_by_head
from hmhi_jax.kernels.selection import top_k_by_bisection
from hmhi_jax.kernels.top_k_attention import READS, attend_top_k

DENSE = {"by head": functools.partial(attend_by_head, 0), "batched": functools.partial(attend_batched, 40 * 24)}


def _tokens(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def _softmax_attention(q, k, v, limit=None):
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(q.shape[-1])
    if limit is not None:
        scores = jnp.where(jnp.arange(k.shape[1])[None, None, None] < limit, scores, -jnp.inf)
    return jnp.einsum("bhnm,bmhe->bnhe", jax.nn.softmax(scores, -1), v)


def _top_k_softmax_attention(q, k, v, kept, limit):
    scores = jnp.einsum("bnc,bmc->bnm", q, k) / np.sqrt(q.shape[-1])
    scores = jnp.where(jnp.arange(k.shape[1])[None, None] < limit, scores, -jnp.inf)
    best, index = lax.top_k(scores, kept)
    return jnp.einsum("bnk,bnkd->bnd", jax.nn.softmax(best, -1), jax.vmap(lambda x, i: x[i])(v, index))


def _telling_apart(batch: int, keys: int, heads: int) -> jax.Array:
    """Values of which attention makes its weights."""
    return jnp.broadcast_to(jnp.eye(keys)[None, :, None], (batch, keys, heads, keys))


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """The kernel for NVIDIA GPUs in plain JAX, which runs anywhere."""
    monkeypatch.setattr(top_k_attention, "top_k_by_bisection", functools.partial(top_k_by_bisection, interpret=True))
    monkeypatch.setattr(top_k_attention, "can_be_lowered", lambda: True)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(attention, "FEWEST_DIFFERENTIATED", 0)
    monkeypatch.setattr(attention, "SCORES", 40 * 12)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("limit", [None, 24])
@pytest.mark.parametrize("form", DENSE.values(), ids=DENSE)
@pytest.mark.parametrize(("batch", "heads"), [(1, 1), (2, 3), (3, 2)])
def test_dense_forms(form, batch, heads, limit):
    q, k, v, g = (_tokens(i, batch, n, heads, 8) for i, n in enumerate((96, 40, 40, 96)))
    limit = None if limit is None else jnp.int32(limit)

    def value_and_gradients(read, q, k, v, g):
        value, pullback = jax.vjp(lambda q, k, v: read(q, k, v, limit), q, k, v)
        return value, pullback(g)

    plain = functools.partial(value_and_gradients, _softmax_attention)
    found = value_and_gradients(jax.jit(lambda *x: form(0.0, *x, None)), q, k, v, g)
    assert_rounded_alike(found, plain(q, k, v, g), in_float64(plain, q, k, v, g))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("key", [jax.random.key(3), jax.random.PRNGKey(3)], ids=["typed", "raw"])
@pytest.mark.parametrize("form", DENSE.values(), ids=DENSE)
def test_dense_forms_drop_weights(form, key):
    """With equal weights and values that tell the keys apart, what was dropped can be read off."""
    q, k = jnp.zeros((2, 96, 3, 4)), jnp.zeros((2, 40, 3, 4))
    weights = np.asarray(form(0.3, q, k, _telling_apart(2, 40, 3), None, key)) * 40 * (1 - 0.3)
    np.testing.assert_allclose(weights, weights.round(), atol=1e-5)
    assert abs(weights.mean() - 0.7) < 5 * (0.3 * 0.7 / weights.size) ** 0.5
    assert len(np.unique(weights.round().reshape(-1, 40), axis=0)) == 2 * 96 * 3


@pytest.mark.usefixtures("small_pieces")
def test_dense_gradients():
    """With dropout: the backward pass draws the same places again."""
    q, k, v, g = (_tokens(i, 2, n, 2, 8) for i, n in enumerate((48, 20, 20, 48)))
    limit, key = jnp.int32(13), jax.random.key(8)
    weights = attend_by_head(0, 0.4, q, k, _telling_apart(2, 20, 2), limit, key)
    kept = (weights != 0).swapaxes(1, 2) / 0.6

    def plain(q, k, v):
        scores = jnp.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(q.shape[-1])
        scores = jnp.where(jnp.arange(20)[None, None, None] < limit, scores, -jnp.inf)
        return jnp.einsum("bhnm,bmhe->bnhe", jax.nn.softmax(scores, -1) * kept, v)

    def gradients(read, q, k, v, g):
        return jax.jit(jax.value_and_grad(lambda *x: (read(*x) * g).sum(), (0, 1, 2)))(q, k, v)

    (value, found), (expected_value, expected) = (
        gradients(read, q, k, v, g)
        for read in (functools.partial(attend, limit=limit, dropout_rate=0.4, key=key), plain)
    )
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    assert_rounded_alike(found, expected, in_float64(functools.partial(gradients, plain), q, k, v, g)[1])


@pytest.mark.parametrize("limit", [64, 300])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("platform", READS)
def test_top_k_forms(platform, batch, limit, monkeypatch):
    monkeypatch.setattr(top_k_attention, "CPU_CHUNK", 8)
    monkeypatch.setattr(top_k_attention, "QUERY_CHUNK", 16)
    q, k, v = (_tokens(i, batch, n, 16) for i, n in enumerate((32, 300, 300)))
    found = jax.jit(READS[platform], static_argnums=0)(6, q / 4, k, v, jnp.int32(limit))
    plain = functools.partial(_top_k_softmax_attention, kept=6, limit=limit)
    assert_rounded_alike(found, plain(q, k, v), in_float64(plain, q, k, v))


@pytest.mark.parametrize("platform", READS)
def test_top_k_forms_on_ties(platform):
    """All scores equal: the first keys are kept, and which they are shows in the values."""
    q, k = jnp.zeros((1, 8, 4)), jnp.zeros((1, 400, 4))
    v = jnp.arange(400.0)[None, :, None]
    found = jax.jit(READS[platform], static_argnums=0)(5, q, k, v, jnp.int32(400))
    np.testing.assert_array_equal(found, jnp.full((1, 8, 1), 2.0))


def test_top_k_gradients(monkeypatch):
    monkeypatch.setattr(top_k_attention, "TRAINING_CHUNK", 16)
    q, k, v, g = (_tokens(i, 2, n, 16) for i, n in enumerate((48, 200, 200, 48)))
    limit = jnp.int32(150)

    def plain(q, k, v):
        return _top_k_softmax_attention(q, k, v, 7, limit)

    def gradients(read, q, k, v, g):
        return jax.jit(jax.value_and_grad(lambda *x: (read(*x) * g).sum(), (0, 1, 2)))(q, k, v)

    value, found = gradients(lambda *x: attend_top_k(*x, top_k=7, limit=limit), q, k, v, g)
    expected_value, expected = gradients(plain, q, k, v, g)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    assert_rounded_alike(found, expected, in_float64(functools.partial(gradients, plain), q, k, v, g)[1])


@pytest.mark.parametrize("batch", [1, 2])
def test_top_k_gradient_forms(batch):
    """Both forms give the gradient that JAX derives from the plain definition, with rows dropped."""
    q, k, v, given = (_tokens(i, batch, n, 16) for i, n in enumerate((32, 90, 90, 32)))
    index = jnp.argsort(_tokens(5, batch, 32, 90), -1)[..., :6]
    kept_back = jnp.where(_tokens(6, batch, 32, 6) > 0, 1.5, 0.0)

    def plain(q, k, v):
        k_chosen, v_chosen = (jax.vmap(lambda x, i: x[i])(x, index) for x in (k, v))
        weights = jax.nn.softmax(jnp.einsum("bnc,bnjc->bnj", q, k_chosen), -1)
        return jnp.einsum("bnj,bnjd->bnd", weights * kept_back, v_chosen), weights

    _, pullback, weights = jax.vjp(plain, q, k, v, has_aux=True)
    arguments = q, k, v, given, weights[None], index[None], kept_back[None]
    exact = in_float64(lambda q, k, v, given: jax.vjp(plain, q, k, v, has_aux=True)[1](given), q, k, v, given)
    for form in (top_k_attention.gradient_by_rank, top_k_attention.gradient_in_pieces):
        assert_rounded_alike(jax.jit(form)(*arguments), pullback(given), exact)


def test_top_k_dropout_has_the_gradient_of_its_value():
    """The backward pass draws the same dropout again: compare with finite differences."""
    q, k, v, g = (_tokens(i, 1, n, 8).astype(jnp.float32) for i, n in enumerate((16, 60, 60, 16)))

    @jax.jit
    def loss(q, k, v):
        return (attend_top_k(q, k, v, top_k=5, dropout_rate=0.4, key=jax.random.key(5)) * g).sum()

    undropped = (attend_top_k(q, k, v, top_k=5) * g).sum()
    assert abs(loss(q, k, v) - undropped) > 1e-3
    gradients = jax.grad(loss, (0, 1, 2))(q, k, v)
    for i in range(3):
        direction = _tokens(10 + i, *(q, k, v)[i].shape)
        moved = [[x + sign * 1e-3 * direction if j == i else x for j, x in enumerate((q, k, v))] for sign in (1, -1)]
        slope = (loss(*moved[0]) - loss(*moved[1])) / 2e-3
        np.testing.assert_allclose((gradients[i] * direction).sum(), slope, rtol=2e-2, atol=2e-2)


def test_top_k_under_transforms():
    """Per-example gradients through checkpoint and scan equal those taken one by one."""
    q, k, v = (_tokens(i, 3, 1, n, 8) for i, n in enumerate((16, 100, 100)))

    def gradients(read, *inputs):
        def loss(q, k, v):
            def body(carry, _):
                return jax.checkpoint(lambda x: read(x, k, v))(carry), None

            return lax.scan(body, q, None, length=2)[0].sum()

        return jax.grad(loss, (0, 1, 2))(*inputs)

    def plain(q, k, v):
        return _top_k_softmax_attention(q, k, v, 4, 100)

    ours = jax.jit(functools.partial(gradients, functools.partial(attend_top_k, top_k=4)))
    together = jax.jit(jax.vmap(ours))(q, k, v)
    for i in range(3):
        inputs = q[i], k[i], v[i]
        exact = in_float64(functools.partial(gradients, plain), *inputs)
        assert_rounded_alike(ours(*inputs), gradients(plain, *inputs), exact)
        assert_rounded_alike([x[i] for x in together], ours(*inputs), exact)


def test_bfloat16_stays_close():
    q, k, v = (_tokens(i, 1, n, 16) for i, n in enumerate((32, 200, 200)))
    half = (x.astype(jnp.bfloat16) for x in (q, k, v))
    found = attend_top_k(*half, top_k=200)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), attend_top_k(q, k, v, top_k=200), atol=3e-2)
