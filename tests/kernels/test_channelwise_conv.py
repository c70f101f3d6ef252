"""PLAM's strided convolution: the forms for CPU against XLA's own, values and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounding import assert_rounded_alike, in_float64

from hmhi_jax.kernels.convolution import _grouped_native, _grouped_patches, _grouped_shifted, channelwise_conv
from hmhi_jax.models.layers import ChannelwiseConv


@pytest.mark.parametrize(
    ("shape", "size", "stride", "features"),
    [((2, 8, 12, 3), 7, 4, 6), ((1, 5, 9, 2), 7, 4, 2), ((1, 6, 5, 4), 3, 2, 12), ((1, 9, 8, 2), 3, 4, 4)],
)
@pytest.mark.parametrize("ours", [_grouped_patches, _grouped_shifted, channelwise_conv])
def test_the_forms_agree(ours, shape, size, stride, features):
    x = jax.random.normal(jax.random.key(0), shape)
    kernel = jax.random.normal(jax.random.key(1), (size, size, 1, features))

    def value_and_gradients(form, x, kernel):
        outputs, pullback = jax.vjp(lambda x, kernel: form(x, kernel, stride), x, kernel)
        return outputs, *pullback(jnp.cos(outputs))

    plain = partial(value_and_gradients, _grouped_native)
    assert_rounded_alike(value_and_gradients(ours, x, kernel), plain(x, kernel), in_float64(plain, x, kernel))


def test_every_channel_is_seen_by_its_own_filters_alone():
    layer = ChannelwiseConv(4, 3, 2, jnp.dtype("float32"))
    x = jnp.zeros((1, 4, 4, 2)).at[..., 1].set(1.0)
    variables = layer.init(jax.random.key(0), x)
    outputs = layer.apply(variables, x)
    assert outputs.shape == (1, 2, 2, 4)
    assert not np.asarray(outputs[..., :2]).any()
    assert np.asarray(outputs[..., 2:]).all()
