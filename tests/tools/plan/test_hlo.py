"""Compiled programs read as text: loops, FLOPs, collectives and cycles against programs whose figures are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hmhi_jax.tools.plan.hlo import (
    Instruction,
    along,
    collectives,
    first_group,
    parse,
    program_flops,
    shapes_of,
    short_source,
)
from hmhi_jax.tools.plan.programs import estimate, sort_cycles

# As the TPU compiler writes: a convolution in a fusion, in a loop that counts to 8, with cycles noted.
TPU = """
HloModule jit_f, is_scheduled=true

%fused (p0: bf16[64,32], p1: bf16[32,16]) -> bf16[64,16] {
  %p0 = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[32,16]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %c.1 = bf16[64,16]{1,0:T(8,128)(2,1)} convolution(%p0, %p1), dim_labels=bf_io->bf
}

%body (t: (s32[], bf16[64,32])) -> (s32[], bf16[64,32]) {
  %t = (s32[]{:T(128)}, bf16[64,32]{1,0:T(8,128)(2,1)}) parameter(0)
  %x = bf16[64,32]{1,0:T(8,128)(2,1)} get-tuple-element(%t), index=1
  %w = bf16[32,16]{1,0:T(8,128)(2,1)} constant({...})
  %f.1 = bf16[64,16]{1,0:T(8,128)(2,1)} fusion(%x, %w), kind=kOutput, calls=%fused, METADATA
  %s.1 = (f32[64,640]{0,1:T(8,128)}, s32[64,640]{0,1:T(8,128)S(1)}) sort(%x, %x), dimensions={1}, to_apply=%less
  ROOT %r = (s32[]{:T(128)}, bf16[64,32]{1,0:T(8,128)(2,1)}) tuple(%x, %x)
}

%condition (t.2: (s32[], bf16[64,32])) -> pred[] {
  %limit = s32[]{:T(128)} constant(8)
  %t.2 = (s32[]{:T(128)}, bf16[64,32]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%t.2), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main (a: (s32[], bf16[64,32])) -> (s32[], bf16[64,32]) {
  %a = (s32[]{:T(128)}, bf16[64,32]{1,0:T(8,128)(2,1)}) parameter(0)
  ROOT %w.1 = (s32[]{:T(128)}, bf16[64,32]{1,0:T(8,128)(2,1)}) while(%a), condition=%condition, body=%body
}
""".replace(
    "METADATA",
    'metadata={op_name="jit(f)/HMHINet.step/decoder/blend1/while/body/conv" stack_frame_id=3}, '
    'backend_config={"window_config":{"estimated_cycles":"1000"}}',
)


def test_loops_fusions_and_cycles_of_a_tpu_program():
    program = parse(TPU)
    assert program_flops(program) == 8 * 2 * 64 * 32 * 16
    assert not program.unknown_loops()
    seconds, sorting, places = estimate(program, clock=1e6)
    sort = program.computations["body"]["s.1"]
    assert sort_cycles(sort) > 0
    assert sorting == pytest.approx(8 * sort_cycles(sort) / 1e6)
    assert seconds == pytest.approx((8 * 1000 + 8 * sort_cycles(sort)) / 1e6)
    assert dict(places)["decoder/blend1"] == pytest.approx(8 * 1000 / 1e6)


def test_a_loop_whose_condition_is_no_count():
    program = parse(TPU.replace("direction=LT", "direction=NE"))
    assert [loop.name for loop in program.unknown_loops()] == ["w.1"]
    assert program_flops(program) == 2 * 64 * 32 * 16


def compiled_text(function, *arguments, **options):
    return jax.jit(function, **options).lower(*arguments).compile().as_text()


@pytest.mark.parametrize(
    ("stride", "padding", "groups", "dilation", "expected"),
    [
        (1, ((0, 0), (0, 0)), 1, 1, 2 * 8 * 8 * 9 * 4 * 6),
        (2, ((0, 0), (0, 0)), 1, 1, 2 * 4 * 4 * 9 * 4 * 6),
        # Nine taps everywhere but at the border: 28 pairs along each axis instead of 30.
        (1, ((1, 1), (1, 1)), 1, 1, 2 * 28 * 28 * 4 * 6),
        (1, ((0, 0), (0, 0)), 2, 1, 2 * 8 * 8 * 9 * 2 * 6),
        # Every second element of the dilated input is a hole.
        (1, ((0, 0), (0, 0)), 1, 2, None),
    ],
)
def test_flops_of_convolutions(stride, padding, groups, dilation, expected):
    image, kernel = jnp.ones((1, 10, 10, 4)), jnp.ones((3, 3, 4 // groups, 6))

    def convolve(image, kernel):
        return lax.conv_general_dilated(
            image, kernel, (stride, stride), padding, lhs_dilation=(dilation, dilation), feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    text = compiled_text(convolve, image, kernel)
    if expected is None:
        # Brute force: which of the nine taps of every output meet an input element.
        meet = sum((o + k) % 2 == 0 for o in range(17) for k in range(3))
        expected = 2 * meet**2 * 4 * 6
    assert program_flops(parse(text)) == expected


def on_eight(data, space):
    return Mesh(np.asarray(jax.devices()[: data * space]).reshape(data, space), ("data", "space"))


def test_collectives_of_a_real_program():
    """A gradient summed over the batch: one all-reduce of the weights' size, along data only."""
    mesh = on_eight(8, 1)
    batch, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())

    def gradient(w, x):
        return jax.grad(lambda w: jnp.tanh(x @ w).sum())(w)

    text = compiled_text(
        gradient, jnp.ones((64, 32)), jnp.ones((16, 64)), in_shardings=(whole, batch), out_shardings=whole
    )
    (found,) = collectives(parse(text), dict(mesh.shape))
    assert (found.kind, found.axes, found.chips, found.count) == ("all-reduce", "data", 8, 1)
    assert found.bytes == 64 * 32 * 4
    assert found.seconds(link=1e9) == pytest.approx(2 * 7 / 8 * 64 * 32 * 4 / 1e9)


def test_collectives_in_a_loop_count_every_turn():
    mesh = on_eight(1, 8)
    rows = NamedSharding(mesh, PartitionSpec("space"))

    def halos(x):
        def one(x, _):
            return x + jnp.pad(x, ((1, 0), (0, 0)))[:-1], None

        return lax.scan(one, x, None, length=5)[0]

    text = compiled_text(halos, jnp.ones((64, 16)), in_shardings=rows, out_shardings=rows)
    found = [row for row in collectives(parse(text), dict(mesh.shape)) if row.kind == "collective-permute"]
    assert sum(row.count for row in found) == 5
    assert sum(row.bytes for row in found) == 5 * 16 * 4
    assert {row.axes for row in found} == {"space"}


@pytest.mark.parametrize(
    ("text", "group", "axes"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", [0, 1], "space"),
        ("replica_groups=[4,2]<=[8]", [0, 1], "space"),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", [0, 2, 4, 6], "data"),
        ("replica_groups=[1,8]<=[8]", list(range(8)), "data+space"),
        ("source_target_pairs={{0,2},{2,4}}", [0, 2], "data"),
        ("source_target_pairs={{0,0},{2,3}}, channel_id=4", [2, 3], "space"),
        ("channel_id=1", None, "data+space"),
    ],
)
def test_groups_along_axes(text, group, axes):
    assert first_group(Instruction("x", "f32[]", "all-reduce", text)) == group
    assert along(group, {"data": 4, "space": 2}) == axes


def test_shapes_and_sources():
    assert [s.bytes for s in shapes_of("(f32[4,512]{1,0:T(8,128)}, bf16[3]{0}, s32[])")] == [8192, 6, 4]
    source = "jit(step)/transpose(jvp(HMHINet.step))/while/body/decoder/blend1/conv_general_dilated;jit(x)/y"
    assert short_source(source) == "decoder/blend1/conv_general_dilated"
