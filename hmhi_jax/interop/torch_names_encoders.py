"""Parameter paths of the encoders and their PyTorch names, one table of rules for each family.

Names are those of the release, which are SegFormer's, Swin's and torchvision's own behind `backbone.`. A rule is a
pair (pattern on our path without the leaf, name there); numbers are carried over as \\1, \\2, ... Adapters of Swin,
ResNet and EfficientNet exist only here; their names follow the release's MiT.
"""

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
            rules += [
                (rf"{place}/{name}_norm", rf"{target}._bn{number}")
                for number, name in enumerate(("expand", "depthwise", "project"))
            ]
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
