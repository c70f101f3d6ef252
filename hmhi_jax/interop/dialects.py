"""The names under which publishers' ImageNet encoders stand in files, turned into the release's.

Every source is a `Dialect`: how its files are recognised (by a marker), what its names become, which entries are
dropped and why. A rule may also change the array (OpenMMLab keeps linear layers as 1x1 convolutions), take a part of
it, or give one of the parts that are put together (Hugging Face keeps query, key and value apart).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from hmhi_jax.errors import InputError


@dataclass(frozen=True)
class Rule:
    """A name that fits `pattern` becomes `target`; `part` orders what is put together along the first axis."""

    pattern: str
    target: str
    change: Callable[[np.ndarray], np.ndarray] = lambda x: x
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


def _stages(count: int, make: Callable[[int], list[Rule]]) -> tuple[Rule, ...]:
    return tuple(rule for index in range(count) for rule in make(index))


# --- mix transformers -------------------------------------------------------------------------------------------------

_LEAF = r"\.(weight|bias)"
# Hugging Face's, before and since transformers 5.
_QUERY, _KEY, _VALUE = (rf"(?:self\.{name}|{name[0]}_proj)" for name in ("query", "key", "value"))


def _mit_huggingface(i: int) -> list[Rule]:
    # nvidia/mit-b*: stages from 0, key and value apart. The second name of each pair is what `state_dict()` gives since
    # transformers 5; `save_pretrained` still writes the first.
    stage, block = i + 1, rf"(?:encoder\.block\.{i}|stages\.{i}\.blocks)\.(\d+)"
    embedding, attention = rf"(?:encoder\.patch_embeddings\.{i}|stages\.{i}\.patch_embeddings)", rf"{block}\.attention"
    target = rf"block{stage}.\1"
    reduced = r"(?:self|sequence_reduction)"
    return [
        Rule(rf"{embedding}\.proj{_LEAF}", rf"patch_embed{stage}.proj.\1"),
        Rule(rf"{embedding}\.layer_norm{_LEAF}", rf"patch_embed{stage}.norm.\1"),
        Rule(rf"(?:encoder\.layer_norm\.{i}|stages\.{i}\.layer_norm){_LEAF}", rf"norm{stage}.\1"),
        Rule(rf"{block}\.(?:layer_norm_1|layernorm_before){_LEAF}", rf"{target}.norm1.\2"),
        Rule(rf"{block}\.(?:layer_norm_2|layernorm_after){_LEAF}", rf"{target}.norm2.\2"),
        Rule(rf"{attention}\.{_QUERY}{_LEAF}", rf"{target}.attn.q.\2"),
        Rule(rf"{attention}\.{_KEY}{_LEAF}", rf"{target}.attn.kv.\2", part=0),
        Rule(rf"{attention}\.{_VALUE}{_LEAF}", rf"{target}.attn.kv.\2", part=1),
        Rule(rf"{attention}\.{reduced}\.(?:sr|sequence_reduction){_LEAF}", rf"{target}.attn.sr.\2"),
        Rule(rf"{attention}\.{reduced}\.layer_norm{_LEAF}", rf"{target}.attn.norm.\2"),
        Rule(rf"{attention}\.(?:output\.dense|o_proj){_LEAF}", rf"{target}.attn.proj.\2"),
        Rule(rf"{block}\.mlp\.(?:dense|fc)([12]){_LEAF}", rf"{target}.mlp.fc\2.\3"),
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
        Rule(rf"{block}\.attn\.attn\.in_proj_(weight|bias)", rf"{target}.attn.q.\2", lambda x: x[: len(x) // 3]),
        Rule(rf"{block}\.attn\.attn\.in_proj_(weight|bias)", rf"{target}.attn.kv.\2", lambda x: x[len(x) // 3 :]),
        Rule(rf"{block}\.attn\.attn\.out_proj{_LEAF}", rf"{target}.attn.proj.\2"),
        Rule(rf"{block}\.attn\.(sr|norm){_LEAF}", rf"{target}.attn.\2.\3"),
        Rule(rf"{block}\.ffn\.layers\.0\.weight", rf"{target}.mlp.fc1.weight", _squeezed),
        Rule(rf"{block}\.ffn\.layers\.0\.bias", rf"{target}.mlp.fc1.bias"),
        Rule(rf"{block}\.ffn\.layers\.1{_LEAF}", rf"{target}.mlp.dwconv.dwconv.\2"),
        Rule(rf"{block}\.ffn\.layers\.4\.weight", rf"{target}.mlp.fc2.weight", _squeezed),
        Rule(rf"{block}\.ffn\.layers\.4\.bias", rf"{target}.mlp.fc2.bias"),
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


def _swin_embedding(projection: str, norm: str) -> list[Rule]:
    return [Rule(rf"{projection}{_LEAF}", r"patch_embed.proj.\1"), Rule(rf"{norm}{_LEAF}", r"patch_embed.norm.\1")]


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
        Rule(rf"{block}\.attention\.{_QUERY}{_LEAF}", rf"{target}.attn.qkv.\2", part=0),
        Rule(rf"{block}\.attention\.{_KEY}{_LEAF}", rf"{target}.attn.qkv.\2", part=1),
        Rule(rf"{block}\.attention\.{_VALUE}{_LEAF}", rf"{target}.attn.qkv.\2", part=2),
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
    Dialect(
        "Hugging Face", "mit", r"(?:encoder\.patch_embeddings\.0|stages\.0\.patch_embeddings)\.proj\.weight",
        _stages(4, _mit_huggingface),
    ),
    Dialect("OpenMMLab", "mit", r"layers\.0\.0\.projection\.weight", _stages(4, _mit_openmmlab)),
    Dialect(
        "timm (0.9 and newer)", "swin", r"layers\.3\.downsample\.reduction\.weight",
        (_KEPT_SWIN, *_stages(3, _swin_timm)),
        _SWIN_DROPS,
    ),
    Dialect(
        "Swin's authors, timm before 0.9", "swin", r"layers\.0\.blocks\.0\.attn\.qkv\.weight",
        (_KEPT_SWIN, Rule(r"(layers\.\d\.downsample\..*)", r"\1")),
        _SWIN_DROPS,
    ),
    Dialect(
        "torchvision", "swin", r"features\.1\.0\.attn\.qkv\.weight",
        (*_swin_embedding(r"features\.0\.0", r"features\.0\.2"), *_stages(4, _swin_torchvision)),
        _SWIN_DROPS,
    ),
    Dialect(
        "Hugging Face", "swin", r"encoder\.layers\.0\.blocks\.0\.attention\.(self\.query|q_proj)\.weight",
        (
            *_swin_embedding(r"embeddings\.patch_embeddings\.projection", r"embeddings\.norm"),
            *_stages(4, _swin_huggingface),
        ),
        _SWIN_DROPS,
    ),
    Dialect(
        "OpenMMLab", "swin", r"stages\.0\.blocks\.0\.attn\.w_msa\.qkv\.weight",
        (*_swin_embedding(r"patch_embed\.projection", r"patch_embed\.norm"), *_stages(4, _swin_openmmlab)),
        _SWIN_DROPS,
    ),
    Dialect(
        "torchvision, timm, OpenMMLab", "resnet", r"layer1\.0\.conv1\.weight",
        (Rule(r"((?:conv1|bn1|layer[1-4])\..*)", r"\1"),),
    ),
    Dialect(
        "Hugging Face", "resnet", r"encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight",
        (
            Rule(r"embedder\.embedder\.convolution\.weight", r"conv1.weight"),
            Rule(rf"embedder\.embedder\.normalization{_NORM_LEAF}", r"bn1.\1"),
            *_stages(4, _resnet_huggingface),
        ),
    ),
    Dialect(
        "EfficientNet for PyTorch (lukemelas and its Lite variants)", "efficientnet",
        r"_blocks\.0\._depthwise_conv\.weight",
        (Rule(r"((?:_conv_stem|_bn0|_blocks\.\d+)\..*|_stage\d\.adapter\..*)", r"\1"),),
        ((r"(_conv_head|_bn1|_fc)\..*", "classifier head"),),
    ),
)  # fmt: skip


@dataclass
class Renamed:
    """Entries under the release's encoder names (without `backbone.`), and what became of the rest."""

    dialect: str
    family: str
    entries: dict[str, np.ndarray]
    dropped: dict[str, list[str]] = field(default_factory=dict)  # reason -> names
    unknown: list[str] = field(default_factory=list)


# Dropped from every file of the family, whoever wrote it.
_DROPS: tuple[tuple[str, str], ...] = (
    (r"(head|fc|classifier)\..*", "classifier head"),
    (r"(decode_head|auxiliary_head|neck)\..*", "head of another task"),
    (r".*relative_position_index", "relative-position indices, a constant"),
    (r".*\.attn_mask", "attention masks, a constant"),
    (r".*num_batches_tracked", "batch counters"),
    (r"(mean|std)|(data_preprocessor|normalize)\..*", "preprocessing constants"),
)


# What stands in front of an encoder's names when it is part of something larger.
_CONTAINERS = ("backbone.", "segformer.", "swin.", "resnet.", "encoder.", "model.")


def rename_encoder(entries: Mapping[str, np.ndarray], source: str) -> Renamed:
    """Recognise whose names these are and give the entries the release's.

    Args:
        entries: name -> array in PyTorch's layout.
        source: names the file in errors.

    Raises `InputError` if no dialect fits, or an entry cannot be taken apart as its name asks.
    """
    unmarked = []
    for prefix in ("", *_CONTAINERS):
        inside = {n.removeprefix(prefix): a for n, a in entries.items() if n.startswith(prefix)}
        outside = [n for n in entries if not n.startswith(prefix)]
        for dialect in DIALECTS:
            if any(re.fullmatch(dialect.marker, name) for name in inside):
                return _renamed(dialect, inside, outside, source)
            known = sum(any(re.fullmatch(rule.pattern, name) for rule in dialect.rules) for name in inside)
            unmarked.append((known, dialect, inside, outside))
    # The layer that tells may be the one that is missing: then whose rules most names fit, if they are many.
    known, dialect, inside, outside = max(unmarked, key=lambda one: one[0])
    if known > len(entries) / 2:
        return _renamed(dialect, inside, outside, source)
    shown = ", ".join(list(entries)[:4])
    raise InputError(
        f"{source}: {len(entries)} entries under names of no source that is known ({shown}, ...); expected a MiT, "
        "Swin, ResNet or EfficientNet encoder, or a whole HMHI-Net"
    )


def _renamed(dialect: Dialect, inside: Mapping[str, np.ndarray], outside: list[str], source: str) -> Renamed:
    result = Renamed(dialect.name, dialect.family, {})
    parts: dict[str, dict[int, np.ndarray]] = {}
    for name, array in [*inside.items(), *((name, None) for name in outside)]:
        reason = next((why for pattern, why in (*dialect.drops, *_DROPS) if re.fullmatch(pattern, name)), None)
        if reason is not None:
            result.dropped.setdefault(reason, []).append(name)
            continue
        fitting = [(rule, match) for rule in dialect.rules if (match := re.fullmatch(rule.pattern, name))]
        if not fitting or array is None:
            result.unknown.append(name)
        for rule, match in fitting if array is not None else []:
            try:
                parts.setdefault(match.expand(rule.target), {})[rule.part] = rule.change(array)
            except ValueError:
                raise InputError(
                    f"{source}: entry {name} has shape {array.shape}, which no {dialect.family} has"
                ) from None
    for target, pieces in parts.items():
        # A single piece stays a view of the file.
        ordered = [pieces[part] for part in sorted(pieces)]
        result.entries[target] = ordered[0] if len(ordered) == 1 else np.concatenate(ordered)
    return result
