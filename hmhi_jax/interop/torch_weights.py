"""PyTorch state dicts to our variables and back; exact, strict, without PyTorch.

Our parameter paths and the release's names are one table of rules, read in both directions. A rule turns a path of ours
without its leaf, joined with '/', into the release's name; numbers are carried over as \\1, \\2, ...; the leaf decides
how the array is laid out there. The first rule that matches wins. Names of encoders are SegFormer's, Swin's and
torchvision's own behind `backbone.`; adapters of Swin, ResNet and EfficientNet exist only here, and their names follow
the release's MiT.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from hmhi_jax.errors import InputError
from hmhi_jax.interop.shapes import Shapes, encoder_shapes, fit, leaves_by_path, variable_shapes
from hmhi_jax.kernels.grids import relative_position_index
from hmhi_jax.models import HMHINet
from hmhi_jax.models.backbones import spec

Rules = list[tuple[str, str]]


def _adapters(place: str, target: str, parts: str) -> Rules:
    """Rules of the adapters `parts` (an alternation) inside a block."""
    group = place.count("(") + 1
    found = rf"{place}/({parts})"
    return [
        (rf"{found}/norm", rf"{target}.\{group}.adapter_layer_norm_before"),
        (rf"{found}/(down|up)", rf"{target}.\{group}.\{group + 1}_proj"),
    ]


def _mit() -> Rules:
    place, target = r"encoder/stage(\d)_block(\d+)", r"backbone.block\1.\2"
    return [
        (r"encoder/stage(\d)_embed", r"backbone.patch_embed\1.proj"),
        (r"encoder/stage(\d)_embed_norm", r"backbone.patch_embed\1.norm"),
        (r"encoder/stage(\d)_norm", r"backbone.norm\1"),
        (rf"{place}/(norm[12])", rf"{target}.\3"),
        (rf"{place}/attn/(q|kv)", rf"{target}.attn.\3"),
        (rf"{place}/attn/out", rf"{target}.attn.proj"),
        (rf"{place}/attn/reduce", rf"{target}.attn.sr"),
        (rf"{place}/attn/reduce_norm", rf"{target}.attn.norm"),
        (rf"{place}/mlp/expand", rf"{target}.mlp.fc1"),
        (rf"{place}/mlp/dwconv", rf"{target}.mlp.dwconv.dwconv"),
        (rf"{place}/mlp/project", rf"{target}.mlp.fc2"),
        *_adapters(rf"{place}/attn", rf"{target}.attn", "q_adapter|kv_adapter"),
        *_adapters(place, target, "adapter"),
    ]


def _swin() -> Rules:
    # Our stages count from 1, Swin's layers from 0. Merging opens our stage and closes Swin's layer before it.
    rules = [
        (r"encoder/stage1_embed", r"backbone.patch_embed.proj"),
        (r"encoder/stage1_embed_norm", r"backbone.patch_embed.norm"),
    ]
    for layer in range(4):
        place, target = rf"encoder/stage{layer + 1}_block(\d+)", rf"backbone.layers.{layer}.blocks.\1"
        rules += [
            (rf"encoder/stage{layer + 2}_merge", rf"backbone.layers.{layer}.downsample.reduction"),
            (rf"encoder/stage{layer + 2}_merge_norm", rf"backbone.layers.{layer}.downsample.norm"),
            (rf"{place}/(norm[12])", rf"{target}.\2"),
            (rf"{place}/attn", rf"{target}.attn"),
            (rf"{place}/attn/qkv", rf"{target}.attn.qkv"),
            (rf"{place}/attn/out", rf"{target}.attn.proj"),
            (rf"{place}/expand", rf"{target}.mlp.fc1"),
            (rf"{place}/project", rf"{target}.mlp.fc2"),
            *_adapters(rf"{place}/attn", rf"{target}.attn", "q_adapter|kv_adapter"),
            *_adapters(place, target, "adapter"),
        ]
    return rules


def _resnet() -> Rules:
    place, target = r"encoder/stage(\d)_block(\d+)", r"backbone.layer\1.\2"
    return [
        (r"encoder/stem", r"backbone.conv1"),
        (r"encoder/stem_norm", r"backbone.bn1"),
        (rf"{place}/(conv\d)", rf"{target}.\3"),
        (rf"{place}/conv(\d)_norm", rf"{target}.bn\3"),
        (rf"{place}/shortcut", rf"{target}.downsample.0"),
        (rf"{place}/shortcut_norm", rf"{target}.downsample.1"),
        *_adapters(place, target, "adapter"),
    ]


def _efficientnet(stages: tuple[int, ...] = (3, 2, 6, 5)) -> Rules:
    # The published names count blocks through all stages; ours count them by stage. Lite0 has sixteen.
    rules = [
        (r"encoder/stem", r"backbone._conv_stem"),
        (r"encoder/stem_norm", r"backbone._bn0"),
        (r"encoder/stage(\d)_adapter/norm", r"backbone._stage\1.adapter.adapter_layer_norm_before"),
        (r"encoder/stage(\d)_adapter/(down|up)", r"backbone._stage\1.adapter.\2_proj"),
    ]
    first = 0
    for stage, blocks in enumerate(stages, start=1):
        for block in range(blocks):
            place, target = rf"encoder/stage{stage}_block{block}", rf"backbone._blocks.{first + block}"
            rules += [(rf"{place}/(expand|depthwise|project)", rf"{target}._\1_conv")]
            for number, name in enumerate(("expand", "depthwise", "project")):
                rules.append((rf"{place}/{name}_norm", rf"{target}._bn{number}"))
        first += blocks
    return rules


ENCODER_RULES: dict[str, Rules] = {
    "mit": _mit(), "swin": _swin(), "resnet": _resnet(), "efficientnet": _efficientnet(),
}  # fmt: skip


def family(backbone: str) -> str:
    """The key of `ENCODER_RULES` for a registered backbone; KeyError where no rules are known."""
    name = backbone.rstrip("0123456789").split("_")[0]
    if name not in ENCODER_RULES:
        raise KeyError(f"no PyTorch names are known for backbone {backbone!r}")
    return name


# Everything behind the encoder.
MODULE_RULES: Rules = [
    # Decoder: our levels count strides upwards, the release counts from the deepest map.
    *((rf"decoder/lateral{level}", f"decode_head.conv{5 - level}.conv") for level in range(1, 5)),
    *((rf"decoder/blend{level}", f"decode_head.blend{5 - level}.conv") for level in range(1, 5)),
    *((rf"decoder/cbam{level}/(.*)", rf"decode_head.cbam{5 - level}/\1") for level in range(1, 5)),
    (r"decoder/predictor", r"decode_head.predictor.conv"),
    # Banks.
    (r"shallow_bank/(.*)", r"Mem0/\1"),
    (r"deep_bank/(.*)", r"Mem1/\1"),
    # Interaction.
    (r"sgim_module/reduce", r"obj_reduce.0"),
    (r"sgim_module/layer/norm", r"obj_to_pixel.norm"),
    (r"sgim_module/layer/(.*)", r"obj_to_pixel.layers.0/\1"),
    (r"plam_module/downsample", r"pixel_down_sample.0.conv"),
    (r"plam_module/mix", r"pixel_down_sample.1.conv"),
    (r"plam_module/cbam/(.*)", r"pixel_to_obj_cbam/\1"),
    (r"plam_module/fuse", r"p2o_down_linear.conv"),
]

# Parts that stand in several places; a '/' left by the rules above separates the place from the part.
PART_RULES: Rules = [
    (r"(.*cbam\d?)/conv", r"\1.conv1.conv"),
    (r"(.*cbam\d?)/channel_squeeze", r"\1.conv2.0.conv"),
    (r"(.*cbam\d?)/channel_excite", r"\1.conv2.1.conv"),
    (r"(.*cbam\d?)/spatial_squeeze", r"\1.conv3.0.conv"),
    (r"(.*cbam\d?)/spatial_excite", r"\1.conv3.1.conv"),
    (r"(Mem\d)/reference_encoder/mask_conv", r"\1.memory_encoder.mask_downsampler.encoder.0"),
    (r"(Mem\d)/reference_encoder/mask_norm", r"\1.memory_encoder.mask_downsampler.encoder.1"),
    (r"(Mem\d)/reference_encoder/mask_expand", r"\1.memory_encoder.mask_downsampler.encoder.3"),
    (r"(Mem\d)/reference_encoder/mask_expand_norm", r"\1.memory_encoder.mask_downsampler.encoder.4"),
    (r"(Mem\d)/reference_encoder/feature_proj", r"\1.memory_encoder.pix_feat_proj"),
    (r"(Mem\d)/reference_encoder/block(\d)", r"\1.memory_encoder.fuser.layers.\2"),
    (r"(Mem\d)/reference_encoder/block(\d)/(dwconv|norm)", r"\1.memory_encoder.fuser.layers.\2.\3"),
    (r"(Mem\d)/reference_encoder/block(\d)/expand", r"\1.memory_encoder.fuser.layers.\2.pwconv1"),
    (r"(Mem\d)/reference_encoder/block(\d)/project", r"\1.memory_encoder.fuser.layers.\2.pwconv2"),
    (r"(Mem\d)/read_out/norm", r"\1.pixel_transformer.norm"),
    (r"(Mem\d)/read_out/(.*)", r"\1.pixel_transformer.layers.0/\2"),
    (r"(.*layers\.0)/self_attn/(\w+)", r"\1.self_attn.\2_proj"),
    (r"(.*layers\.0)/cross_attn/(\w+)", r"\1.cross_attn_image.\2_proj"),
    (r"(.*layers\.0)/expand", r"\1.linear1"),
    (r"(.*layers\.0)/project", r"\1.linear2"),
    (r"(.*layers\.0)/(norm[123])", r"\1.\2"),
]

# Entries that no forward pass of the release reads, dropped when read and written for its strict `load_state_dict`:
# sixteen cross-attentions whose copies live under `pixel_transformer.layers.0.cross_attn_image` (docs/model.md 9),
# Swin's table of window positions (a constant) and batch norm's step counter.
UNUSED = re.compile(
    r"(Mem[01])\.cross_attention\.(\w+)\.(weight|bias)|.*\.relative_position_index|.*\.num_batches_tracked"
)

# Leaves whose name differs.
_LEAVES = {
    "scale": "weight", "relative_position_bias": "relative_position_bias_table", "mean": "running_mean",
    "var": "running_var",
}  # fmt: skip


@dataclass(frozen=True)
class TorchLayout:
    """How one of our arrays stands in a PyTorch state dict."""

    leaf: str
    to_torch: Callable[[np.ndarray], np.ndarray] = lambda x: x
    from_torch: Callable[[np.ndarray], np.ndarray] = lambda x: x


LINEAR = TorchLayout("weight", lambda x: x.T, lambda x: x.T)
CONV = TorchLayout("weight", lambda x: x.transpose(3, 2, 0, 1), lambda x: x.transpose(2, 3, 1, 0))
# CBAM's channel gate: a linear layer here, a 1x1 convolution there.
LINEAR_AS_CONV = TorchLayout("weight", lambda x: x.T[:, :, None, None], lambda x: x[:, :, 0, 0].T)


def layout(path: str, rank: int) -> TorchLayout:
    """The layout of the array at one of our paths."""
    leaf = path.rsplit("/", 1)[-1]
    if leaf != "kernel":
        return TorchLayout(_LEAVES.get(leaf, leaf))
    if rank == 4:
        return CONV
    return LINEAR_AS_CONV if re.search(r"/channel_(squeeze|excite)/", path) else LINEAR


def torch_name(path: str, rank: int, backbone: str) -> str:
    """The release's name of the array at one of our paths; KeyError where no rule covers it."""
    module = path.rsplit("/", 1)[0]
    name = renamed(ENCODER_RULES[family(backbone)] if path.startswith("encoder/") else MODULE_RULES, module)
    while name is not None and "/" in name:
        name = renamed(PART_RULES, name)
    if name is None:
        raise KeyError(f"no name rule covers {path}")
    return f"{name}.{layout(path, rank).leaf}"


def renamed(rules: Rules, name: str) -> str | None:
    """What the first rule that matches makes of a name; None where none does."""
    for pattern, replacement in rules:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return None


class TorchEntry(NamedTuple):
    """Where an entry of a state dict belongs: our path, its shape in PyTorch's layout, and that layout."""

    path: str
    shape: tuple[int, ...]
    layout: TorchLayout


def expected_entries(model: HMHINet) -> dict[str, TorchEntry]:
    """The release's name of every variable of a model -> its `TorchEntry`."""
    return torch_entries(variable_shapes(model), partial(torch_name, backbone=model.backbone))


def expected_encoder_entries(backbone: str, flow_adapters: bool | None = None) -> dict[str, TorchEntry]:
    """The same for an encoder alone, names with `backbone.`; `flow_adapters` None takes the backbone's default."""
    adapters = spec(backbone).flow_adapters if flow_adapters is None else flow_adapters
    return torch_entries(encoder_shapes(backbone, adapters), partial(torch_name, backbone=backbone))


def torch_entries(shapes: Shapes, name_of: Callable[[str, int], str]) -> dict[str, TorchEntry]:
    """Variables by the names that `name_of` gives for their paths (without collection) and ranks."""
    entries = {}
    for path, leaf in shapes.items():
        inside = path.split("/", 1)[1]
        order = layout(inside, leaf.ndim)
        shape = order.to_torch(np.broadcast_to(np.float32(0), leaf.shape)).shape
        entries[name_of(inside, leaf.ndim)] = TorchEntry(path, shape, order)
    return entries


def from_torch(model: HMHINet, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Variables of `model` from a state dict of the release's network.

    Args:
        model: from `build_model`; its switches decide which entries are expected.
        state_dict: release name -> array in PyTorch's layout. A `module.` prefix is taken off.

    Raises `InputError`: one error that lists every missing, unused and misshapen entry.
    """
    given = {name.removeprefix("module."): np.asarray(array) for name, array in state_dict.items()}
    return _in_our_layout(expected_entries(model), given, f"{model.backbone} with these switches")


def encoder_from_torch(
    backbone: str, state_dict: Mapping[str, np.ndarray], flow_adapters: bool | None = None
) -> dict[str, Any]:
    """Variables of an encoder alone, `{"params": {"encoder": ...}}` (and `"batch_stats"`).

    Args:
        backbone: a registered name.
        state_dict: the release's names, which begin with `backbone.`; flow adapters may be absent as a whole.
        flow_adapters: whether they are expected; None takes the backbone's default.

    Raises `InputError`: one error that lists every missing, unused and misshapen entry.
    """
    expected = expected_encoder_entries(backbone, flow_adapters)
    if not any("adapter." in name for name in state_dict):
        expected = {name: entry for name, entry in expected.items() if "adapter." not in name}
    return _in_our_layout(expected, state_dict, backbone)


def _in_our_layout(expected: Mapping[str, TorchEntry], given: Mapping[str, np.ndarray], network: str) -> dict[str, Any]:
    """The variables; entries that no network reads (`UNUSED`) may be there or not."""
    found = fit(expected, {name: array for name, array in given.items() if not UNUSED.fullmatch(name)})
    if not found:
        raise InputError(f"the weights do not fit {network}. {found}")
    return variables_from(expected, given)


def variables_from(expected: Mapping[str, TorchEntry], given: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The variables, nested, float32, of entries that fit."""
    flat = {}
    for name, entry in expected.items():
        array = entry.layout.from_torch(np.asarray(given[name]))
        flat[entry.path] = jax.device_put(_float32(array), may_alias=True)
    return unflatten_dict(flat, sep="/")


def _float32(array: np.ndarray) -> np.ndarray:
    """A contiguous copy that begins at a multiple of 64 bytes, which JAX takes on a CPU without another copy."""
    buffer = np.empty(4 * array.size + 64, np.uint8)
    begin = -buffer.ctypes.data % 64
    copy = buffer[begin : begin + 4 * array.size].view(np.float32).reshape(array.shape)
    np.copyto(copy, array, casting="unsafe")
    return copy


def to_torch(model: HMHINet | str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The release's state dict of `variables`; the inverse of `from_torch`.

    `model` may be the backbone's name alone; variables of an encoder alone give its part of the state dict.

    The release's `load_state_dict` is strict, so the entries it never reads are written too: copies of the
    cross-attention that its layers use, Swin's window positions, batch norm's counters (zero).
    """
    backbone = model if isinstance(model, str) else model.backbone
    state_dict = state_dict_of(variables, partial(torch_name, backbone=backbone))
    live = ".pixel_transformer.layers.0.cross_attn_image."
    for name, array in list(state_dict.items()):
        if live in name:
            state_dict[name.replace(live, ".cross_attention.")] = array.copy()
        if name.endswith(".relative_position_bias_table"):
            state_dict[name.replace("bias_table", "index")] = relative_position_index().astype(np.int64)
    return state_dict


def state_dict_of(variables: Mapping[str, Any], name_of: Callable[[str, int], str]) -> dict[str, np.ndarray]:
    """Arrays in PyTorch's layout by the names that `name_of` gives, and batch norm's counters, zero."""
    state_dict = {}
    for path, array in leaves_by_path(dict(variables)).items():
        inside, array = path.split("/", 1)[1], np.asarray(array)
        name = name_of(inside, array.ndim)
        state_dict[name] = np.ascontiguousarray(layout(inside, array.ndim).to_torch(array))
        if name.endswith(".running_var"):
            state_dict[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return state_dict
