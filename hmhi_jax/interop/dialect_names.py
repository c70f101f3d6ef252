"""Tables of the names that publishers of ImageNet encoders use.

Every source is a `Dialect`: how its files are recognised, what its names become, which entries are dropped and why. A
rule may also change the array (OpenMMLab keeps linear layers as 1x1 convolutions), take a part of it, or give one of
the parts that are put together (Hugging Face keeps query, key and value apart).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


def _same(x: np.ndarray) -> np.ndarray:
    return x


@dataclass(frozen=True)
class Rule:
    """A name that fits `pattern` becomes `target`; `part` orders what is put together along the first axis."""

    pattern: str
    target: str
    change: Callable[[np.ndarray], np.ndarray] = _same
    part: int = 0


@dataclass(frozen=True)
class Dialect:
    """One publisher's names of one family.

    name      the publisher, for people
    family    "mit", "swin", "resnet" or "efficientnet"
    marker    a name that only these files have (a pattern)
    rules     see `Rule`; an entry goes through every rule that fits
    drops     (pattern, reason) of entries that have no place in an encoder
    """

    name: str
    family: str
    marker: str
    rules: tuple[Rule, ...]
    drops: tuple[tuple[str, str], ...] = ()


def _corners(x: np.ndarray) -> np.ndarray:
    """mmsegmentation merges patches with `unfold`, whose channels run (channel, row, column) on the last axis.

    Swin's own order is (column, row, channel).
    """
    *outputs, inputs = x.shape
    return x.reshape(*outputs, inputs // 4, 2, 2).swapaxes(-1, -3).reshape(x.shape)


def _squeezed(x: np.ndarray) -> np.ndarray:
    return x.reshape(x.shape[:2])


def _first_third(x: np.ndarray) -> np.ndarray:
    return x[: len(x) // 3]


def _last_thirds(x: np.ndarray) -> np.ndarray:
    return x[len(x) // 3 :]


def _stages(count: int, make: Callable[[int], list[Rule]]) -> tuple[Rule, ...]:
    return tuple(rule for index in range(count) for rule in make(index))


# --- mix transformers -------------------------------------------------------------------------------------------------

_LEAF = r"\.(weight|bias)"


def _mit_huggingface(i: int) -> list[Rule]:
    # nvidia/mit-b*: stages from 0, key and value apart.
    stage, block = i + 1, rf"encoder\.block\.{i}\.(\d+)"
    target = rf"block{stage}.\1"
    return [
        Rule(rf"encoder\.patch_embeddings\.{i}\.proj{_LEAF}", rf"patch_embed{stage}.proj.\1"),
        Rule(rf"encoder\.patch_embeddings\.{i}\.layer_norm{_LEAF}", rf"patch_embed{stage}.norm.\1"),
        Rule(rf"encoder\.layer_norm\.{i}{_LEAF}", rf"norm{stage}.\1"),
        Rule(rf"{block}\.layer_norm_([12]){_LEAF}", rf"{target}.norm\2.\3"),
        Rule(rf"{block}\.attention\.self\.query{_LEAF}", rf"{target}.attn.q.\2"),
        Rule(rf"{block}\.attention\.self\.key{_LEAF}", rf"{target}.attn.kv.\2", part=0),
        Rule(rf"{block}\.attention\.self\.value{_LEAF}", rf"{target}.attn.kv.\2", part=1),
        Rule(rf"{block}\.attention\.self\.sr{_LEAF}", rf"{target}.attn.sr.\2"),
        Rule(rf"{block}\.attention\.self\.layer_norm{_LEAF}", rf"{target}.attn.norm.\2"),
        Rule(rf"{block}\.attention\.output\.dense{_LEAF}", rf"{target}.attn.proj.\2"),
        Rule(rf"{block}\.mlp\.dense([12]){_LEAF}", rf"{target}.mlp.fc\2.\3"),
        Rule(rf"{block}\.mlp\.dwconv\.dwconv{_LEAF}", rf"{target}.mlp.dwconv.dwconv.\2"),
    ]


def _mit_openmmlab(i: int) -> list[Rule]:
    # mmsegmentation's mit_b*: a stage is (embedding, blocks, norm); query, key and value in one matrix.
    stage, block = i + 1, rf"layers\.{i}\.1\.(\d+)"
    target = rf"block{stage}.\1"
    return [
        Rule(rf"layers\.{i}\.0\.projection{_LEAF}", rf"patch_embed{stage}.proj.\1"),
        Rule(rf"layers\.{i}\.0\.norm{_LEAF}", rf"patch_embed{stage}.norm.\1"),
        Rule(rf"layers\.{i}\.2{_LEAF}", rf"norm{stage}.\1"),
        Rule(rf"{block}\.norm([12]){_LEAF}", rf"{target}.norm\2.\3"),
        Rule(rf"{block}\.attn\.attn\.in_proj_(weight|bias)", rf"{target}.attn.q.\2", _first_third),
        Rule(rf"{block}\.attn\.attn\.in_proj_(weight|bias)", rf"{target}.attn.kv.\2", _last_thirds),
        Rule(rf"{block}\.attn\.attn\.out_proj{_LEAF}", rf"{target}.attn.proj.\2"),
        Rule(rf"{block}\.attn\.(sr|norm){_LEAF}", rf"{target}.attn.\2.\3"),
        Rule(rf"{block}\.ffn\.layers\.0\.weight", rf"{target}.mlp.fc1.weight", _squeezed),
        Rule(rf"{block}\.ffn\.layers\.0\.bias", rf"{target}.mlp.fc1.bias"),
        Rule(rf"{block}\.ffn\.layers\.1{_LEAF}", rf"{target}.mlp.dwconv.dwconv.\2"),
        Rule(rf"{block}\.ffn\.layers\.4\.weight", rf"{target}.mlp.fc2.weight", _squeezed),
        Rule(rf"{block}\.ffn\.layers\.4\.bias", rf"{target}.mlp.fc2.bias"),
    ]


def _mit_transformers5(i: int) -> list[Rule]:
    # What `state_dict()` gives since transformers 5; `save_pretrained` still writes the names above.
    stage, block = i + 1, rf"stages\.{i}\.blocks\.(\d+)"
    target = rf"block{stage}.\1"
    return [
        Rule(rf"stages\.{i}\.patch_embeddings\.proj{_LEAF}", rf"patch_embed{stage}.proj.\1"),
        Rule(rf"stages\.{i}\.patch_embeddings\.layer_norm{_LEAF}", rf"patch_embed{stage}.norm.\1"),
        Rule(rf"stages\.{i}\.layer_norm{_LEAF}", rf"norm{stage}.\1"),
        Rule(rf"{block}\.layernorm_before{_LEAF}", rf"{target}.norm1.\2"),
        Rule(rf"{block}\.layernorm_after{_LEAF}", rf"{target}.norm2.\2"),
        Rule(rf"{block}\.attention\.q_proj{_LEAF}", rf"{target}.attn.q.\2"),
        Rule(rf"{block}\.attention\.k_proj{_LEAF}", rf"{target}.attn.kv.\2", part=0),
        Rule(rf"{block}\.attention\.v_proj{_LEAF}", rf"{target}.attn.kv.\2", part=1),
        Rule(rf"{block}\.attention\.o_proj{_LEAF}", rf"{target}.attn.proj.\2"),
        Rule(rf"{block}\.attention\.sequence_reduction\.sequence_reduction{_LEAF}", rf"{target}.attn.sr.\2"),
        Rule(rf"{block}\.attention\.sequence_reduction\.layer_norm{_LEAF}", rf"{target}.attn.norm.\2"),
        Rule(rf"{block}\.mlp\.(fc[12]|dwconv\.dwconv){_LEAF}", rf"{target}.mlp.\2.\3"),
    ]


# --- Swin -------------------------------------------------------------------------------------------------------------

_SWIN_DROPS = (
    (r"(norm|layernorm)\.(weight|bias)", "norm before the classifier"),
    (r"(norm\d|hidden_states_norms\.\w+)\.(weight|bias)", "output norms, which the release does not have"),
)
_SWIN_BLOCK = (
    r"(norm[12]\.\w+|attn\.(?:qkv|proj)\.\w+|attn\.relative_position_bias_table|mlp\.fc[12]\.\w+"
    r"|(?:attn\.\w+_)?adapter\..*)"
)


def _swin_timm(i: int) -> list[Rule]:
    # timm since 0.9: as the authors', but merging opens the next layer.
    return [Rule(rf"layers\.{i + 1}\.(downsample\..*)", rf"layers.{i}.\1")]


def _swin_torchvision(i: int) -> list[Rule]:
    # One list of modules: embedding, then stages and mergings in turn.
    block = rf"features\.{2 * i + 1}\.(\d+)"
    target = rf"layers.{i}.blocks.\1"
    return [
        Rule(rf"{block}\.(norm[12]\.\w+)", rf"{target}.\2"),
        Rule(rf"{block}\.(attn\.(?:qkv|proj)\.\w+|attn\.relative_position_bias_table)", rf"{target}.\2"),
        Rule(rf"{block}\.mlp\.0{_LEAF}", rf"{target}.mlp.fc1.\2"),
        Rule(rf"{block}\.mlp\.3{_LEAF}", rf"{target}.mlp.fc2.\2"),
        Rule(rf"features\.{2 * i + 2}\.(reduction|norm){_LEAF}", rf"layers.{i}.downsample.\1.\2"),
    ]


def _swin_huggingface(i: int) -> list[Rule]:
    # The second name of each pair is what `state_dict()` gives since transformers 5.
    block = rf"encoder\.layers\.{i}\.blocks\.(\d+)"
    target = rf"layers.{i}.blocks.\1"
    return [
        Rule(rf"{block}\.layernorm_before{_LEAF}", rf"{target}.norm1.\2"),
        Rule(rf"{block}\.layernorm_after{_LEAF}", rf"{target}.norm2.\2"),
        *(
            Rule(rf"{block}\.attention\.{name}{_LEAF}", rf"{target}.attn.qkv.\2", part=part)
            for part, name in enumerate((r"(?:self\.query|q_proj)", r"(?:self\.key|k_proj)", r"(?:self\.value|v_proj)"))
        ),
        Rule(
            rf"{block}\.attention\.(?:self|relative_position_bias)\.(relative_position_bias_table)",
            rf"{target}.attn.\2",
        ),
        Rule(rf"{block}\.attention\.(?:output\.dense|o_proj){_LEAF}", rf"{target}.attn.proj.\2"),
        Rule(rf"{block}\.(?:intermediate\.dense|mlp\.fc1){_LEAF}", rf"{target}.mlp.fc1.\2"),
        Rule(rf"{block}\.(?:output\.dense|mlp\.fc2){_LEAF}", rf"{target}.mlp.fc2.\2"),
        Rule(rf"encoder\.layers\.{i}\.downsample\.(reduction|norm){_LEAF}", rf"layers.{i}.downsample.\1.\2"),
    ]


def _swin_openmmlab(i: int) -> list[Rule]:
    block = rf"stages\.{i}\.blocks\.(\d+)"
    target = rf"layers.{i}.blocks.\1"
    return [
        Rule(rf"{block}\.(norm[12]\.\w+)", rf"{target}.\2"),
        Rule(rf"{block}\.attn\.w_msa\.((?:qkv|proj)\.\w+|relative_position_bias_table)", rf"{target}.attn.\2"),
        Rule(rf"{block}\.ffn\.layers\.0\.0{_LEAF}", rf"{target}.mlp.fc1.\2"),
        Rule(rf"{block}\.ffn\.layers\.1{_LEAF}", rf"{target}.mlp.fc2.\2"),
        Rule(rf"stages\.{i}\.downsample\.(reduction|norm){_LEAF}", rf"layers.{i}.downsample.\1.\2", _corners),
    ]


# --- ResNet -----------------------------------------------------------------------------------------------------------

_NORM_LEAF = r"\.(weight|bias|running_mean|running_var)"


def _resnet_huggingface(i: int) -> list[Rule]:
    block, target = rf"encoder\.stages\.{i}\.layers\.(\d+)", rf"layer{i + 1}.\1"
    rules = [
        Rule(rf"{block}\.shortcut\.convolution\.weight", rf"{target}.downsample.0.weight"),
        Rule(rf"{block}\.shortcut\.normalization{_NORM_LEAF}", rf"{target}.downsample.1.\2"),
    ]
    for k in range(3):
        rules += [
            Rule(rf"{block}\.layer\.{k}\.convolution\.weight", rf"{target}.conv{k + 1}.weight"),
            Rule(rf"{block}\.layer\.{k}\.normalization{_NORM_LEAF}", rf"{target}.bn{k + 1}.\2"),
        ]
    return rules


_KEPT_MIT = Rule(r"((?:patch_embed|block|norm)\d\..*)", r"\1")
_KEPT_SWIN = Rule(rf"(layers\.\d\.blocks\.\d+\.{_SWIN_BLOCK}|patch_embed\..*)", r"\1")

# In the order they are tried: the more telling markers first.
DIALECTS: tuple[Dialect, ...] = (
    Dialect("SegFormer's authors", "mit", r"patch_embed1\.proj\.weight", (_KEPT_MIT,)),
    Dialect("Hugging Face", "mit", r"encoder\.patch_embeddings\.0\.proj\.weight", _stages(4, _mit_huggingface)),
    Dialect("Hugging Face", "mit", r"stages\.0\.patch_embeddings\.proj\.weight", _stages(4, _mit_transformers5)),
    Dialect("OpenMMLab", "mit", r"layers\.0\.0\.projection\.weight", _stages(4, _mit_openmmlab)),
    Dialect(
        "timm (0.9 and newer)",
        "swin",
        r"layers\.3\.downsample\.reduction\.weight",
        (_KEPT_SWIN, *_stages(3, _swin_timm)),
        _SWIN_DROPS,
    ),
    Dialect(
        "Swin's authors, timm before 0.9",
        "swin",
        r"layers\.0\.blocks\.0\.attn\.qkv\.weight",
        (_KEPT_SWIN, Rule(r"(layers\.\d\.downsample\..*)", r"\1")),
        _SWIN_DROPS,
    ),
    Dialect(
        "torchvision",
        "swin",
        r"features\.1\.0\.attn\.qkv\.weight",
        (
            Rule(rf"features\.0\.0{_LEAF}", r"patch_embed.proj.\1"),
            Rule(rf"features\.0\.2{_LEAF}", r"patch_embed.norm.\1"),
            *_stages(4, _swin_torchvision),
        ),
        _SWIN_DROPS,
    ),
    Dialect(
        "Hugging Face",
        "swin",
        r"encoder\.layers\.0\.blocks\.0\.attention\.(self\.query|q_proj)\.weight",
        (
            Rule(rf"embeddings\.patch_embeddings\.projection{_LEAF}", r"patch_embed.proj.\1"),
            Rule(rf"embeddings\.norm{_LEAF}", r"patch_embed.norm.\1"),
            *_stages(4, _swin_huggingface),
        ),
        _SWIN_DROPS,
    ),
    Dialect(
        "OpenMMLab",
        "swin",
        r"stages\.0\.blocks\.0\.attn\.w_msa\.qkv\.weight",
        (
            Rule(rf"patch_embed\.projection{_LEAF}", r"patch_embed.proj.\1"),
            Rule(rf"patch_embed\.norm{_LEAF}", r"patch_embed.norm.\1"),
            *_stages(4, _swin_openmmlab),
        ),
        _SWIN_DROPS,
    ),
    Dialect(
        "torchvision, timm, OpenMMLab",
        "resnet",
        r"layer1\.0\.conv1\.weight",
        (Rule(r"((?:conv1|bn1|layer[1-4])\..*)", r"\1"),),
    ),
    Dialect(
        "Hugging Face",
        "resnet",
        r"encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight",
        (
            Rule(r"embedder\.embedder\.convolution\.weight", r"conv1.weight"),
            Rule(rf"embedder\.embedder\.normalization{_NORM_LEAF}", r"bn1.\1"),
            *_stages(4, _resnet_huggingface),
        ),
    ),
    Dialect(
        "EfficientNet for PyTorch (lukemelas and its Lite variants)",
        "efficientnet",
        r"_blocks\.0\._depthwise_conv\.weight",
        (Rule(r"((?:_conv_stem|_bn0|_blocks\.\d+)\..*|_stage\d\.adapter\..*)", r"\1"),),
        ((r"(_conv_head|_bn1|_fc)\..*", "classifier head"),),
    ),
)
