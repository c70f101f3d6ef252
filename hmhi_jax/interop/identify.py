"""What a file of weights is, which network it fits and what is missing or left over, before anything is built."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hmhi_jax.errors import InputError
from hmhi_jax.interop.dialects import rename_encoder
from hmhi_jax.interop.shapes import Fit, fit, variable_shapes
from hmhi_jax.interop.torch_weights import UNUSED, expected_encoder_entries, expected_entries
from hmhi_jax.interop.weight_sources import WHOLE, WeightSource
from hmhi_jax.models import build_model
from hmhi_jax.models.backbones import backbone_names, spec


@dataclass(frozen=True)
class Recognised:
    """Weights of a known network.

    source     where they came from
    publisher  whose names they had
    network    registered name of a backbone or of a flow network
    entries    the release's names (of flow networks torchvision's) -> arrays in PyTorch's layout; our paths -> our
               arrays if `source.ours`
    fit        against what that network expects
    dropped    reason -> names that were left out by rule
    whole      a whole network, or an encoder alone
    model_arguments  of `build_model`; for an encoder alone what is known: `backbone`, `flow_adapters`
    """

    source: WeightSource
    publisher: str
    network: str
    entries: dict[str, np.ndarray]
    fit: Fit
    dropped: dict[str, list[str]]
    whole: bool = True
    model_arguments: dict[str, Any] = field(default_factory=dict)

    def require_fit(self) -> None:
        """Raises `InputError` with everything that does not fit, if anything does not."""
        if not self.fit:
            part = "" if self.whole else "the encoder of "
            raise InputError(f"{self.source.path}: the weights do not fit {part}{self.network}. {self.fit}")


def identify(source: WeightSource, backbone: str | None = None) -> Recognised:
    """Recognise a source; `backbone` overrides what the shapes say. Raises `InputError` if nothing known fits."""
    if backbone is not None and backbone not in backbone_names():
        raise InputError(f"backbone {backbone!r} is not known, expected one of {', '.join(backbone_names())}")
    if source.ours:
        return _identify_ours(source, backbone)
    if any(name.startswith(WHOLE) for name in source.entries):
        return _identify_release(source, backbone)
    renamed = rename_encoder(source.entries, str(source.path))
    name = backbone or guess_backbone(renamed.family, renamed.entries, str(source.path))
    entries = {f"backbone.{key}": array for key, array in renamed.entries.items()}
    adapters = any("adapter." in key for key in entries)
    compared = fit(expected_encoder_entries(name, adapters), entries)
    compared = dataclasses.replace(compared, unused=compared.unused + renamed.unknown)
    # Without adapters in the file the network keeps its default, and fresh ones.
    arguments = {"backbone": name, **({"flow_adapters": True} if adapters else {})}
    return Recognised(source, renamed.dialect, name, entries, compared, renamed.dropped, False, arguments)


def _identify_release(source: WeightSource, backbone: str | None) -> Recognised:
    entries = dict(source.entries)
    inside = {n.removeprefix("backbone."): a for n, a in entries.items() if n.startswith("backbone.")}
    name = backbone or guess_backbone(rename_encoder(inside, str(source.path)).family, inside, str(source.path))
    arguments = release_arguments(name, entries)
    unread = [key for key in entries if UNUSED.fullmatch(key)]
    dropped: dict[str, list[str]] = {}
    for key in unread:
        reason = {
            "relative_position_index": "relative-position indices, a constant",
            "num_batches_tracked": "batch counters",
        }.get(key.rsplit(".", 1)[-1], "cross-attention that the release never reads (copies of it live elsewhere)")
        dropped.setdefault(reason, []).append(key)
    kept = {key: array for key, array in entries.items() if key not in unread}
    compared = fit(expected_entries(build_model(**arguments)), kept)
    return Recognised(source, "HMHI-Net's authors", name, kept, compared, dropped, True, arguments)


def release_arguments(backbone: str, entries: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arguments of `build_model` as far as a state dict of the release shows them.

    The capacity of the banks, top-k and drop path leave no trace in weights and stay at their defaults.
    """
    entry = spec(backbone)
    modules = {name.split(".", 1)[0] for name in entries}
    parts = {"sgim": "obj_to_pixel", "plam": "pixel_down_sample", "shallow_memory": "Mem0", "deep_memory": "Mem1"}
    arguments: dict[str, Any] = {"backbone": backbone, **{switch: part in modules for switch, part in parts.items()}}
    adapters = any("adapter." in name for name in entries)
    if adapters != entry.flow_adapters:
        arguments["flow_adapters"] = adapters
    width = entries.get("decode_head.predictor.conv.weight")
    if width is not None and width.ndim == 4 and width.shape[1] != entry.decoder_width:
        arguments["decoder_width"] = int(width.shape[1])
    hidden = next((a for n, a in entries.items() if n.endswith("layers.0.linear1.bias")), None)
    if hidden is not None and hidden.ndim == 1 and hidden.shape[0] != 2048:
        arguments["feedforward"] = int(hidden.shape[0])
    return arguments


def _identify_ours(source: WeightSource, backbone: str | None) -> Recognised:
    arguments = dict(source.header.get("model", {}))
    if backbone is not None:
        arguments["backbone"] = backbone
    if "backbone" not in arguments:
        raise InputError(f"{source.path}: its metadata does not name the network; say it with --backbone")
    whole = not all(name.split("/")[1:2] == ["encoder"] for name in source.entries)
    try:
        expected = variable_shapes(build_model(**arguments))
    except Exception as error:  # switches of no network: which they are is known to the layers alone
        raise InputError(f"{source.path}: its metadata describes no network of ours: {error}") from None
    if not whole:
        adapters = any("adapter" in name for name in source.entries)
        wanted = [path for path in expected if path.split("/")[1] == "encoder" and (adapters or "adapter" not in path)]
        expected = {path: expected[path] for path in wanted}
    compared = fit(expected, source.entries)
    return Recognised(source, "hmhi", arguments["backbone"], dict(source.entries), compared, {}, whole, arguments)


def guess_backbone(family: str, entries: Mapping[str, np.ndarray], source: str) -> str:
    """The registered backbone whose widths and depths an encoder's entries show, names without `backbone.`.

    Raises `InputError` that says what was found if no registered one has them.
    """
    found = _signature(family, entries)
    for name in backbone_names():
        if _family_of(name) == family and _agree(found, _registered_signature(name)):
            return name
    described = ", ".join(f"{key} {value}" for key, value in found.items())
    known = ", ".join(name for name in backbone_names() if _family_of(name) == family)
    raise InputError(
        f"{source}: a {family} encoder with {described}, which none of {known} has; name one by --backbone"
    )


def _agree(found: Any, registered: Any) -> bool:
    """Whether all that is known of an encoder is so; a width is 0 where the layer that would show it is missing."""
    if isinstance(found, dict):
        return all(_agree(value, registered[name]) for name, value in found.items())
    if isinstance(found, tuple):
        return len(found) == len(registered) and all(map(_agree, found, registered))
    return found in (0, registered)


def _family_of(backbone: str) -> str | None:
    """None for a backbone that PyTorch has no names for."""
    from hmhi_jax.interop.torch_weights import family

    try:
        return family(backbone)
    except KeyError:
        return None


def _depths(entries: Mapping[str, np.ndarray], pattern: str) -> tuple[int, ...]:
    blocks: dict[int, set[int]] = {}
    for name in entries:
        if match := re.match(pattern, name):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    return tuple(len(blocks[stage]) for stage in sorted(blocks))


def _width(entries: Mapping[str, np.ndarray], name: str, axis: int = 0) -> int:
    array = entries.get(name)
    return int(array.shape[axis]) if array is not None and array.ndim > axis else 0


def _signature(family: str, entries: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What tells the members of a family apart."""
    if family == "mit":
        widths = tuple(_width(entries, f"patch_embed{stage}.proj.weight") for stage in range(1, 5))
        return {"widths": widths, "depths": _depths(entries, r"block(\d)\.(\d+)\.")}
    if family == "swin":
        table = "layers.0.blocks.0.attn.relative_position_bias_table"
        return {
            "width": _width(entries, "patch_embed.proj.weight"),
            "depths": _depths(entries, r"layers\.(\d)\.blocks\.(\d+)\."),
            "heads": _width(entries, table, 1),
            "window": (round(_width(entries, table) ** 0.5) + 1) // 2,
        }
    if family == "efficientnet":
        projected = {int(m[1]): n for n in entries if (m := re.fullmatch(r"_blocks\.(\d+)\._project_conv\.weight", n))}
        return {
            "stem": _width(entries, "_conv_stem.weight"),
            "blocks": tuple(_width(entries, projected[block]) for block in sorted(projected)),
        }
    bottleneck, group = "layer1.0.conv3.weight" in entries, _width(entries, "layer1.0.conv2.weight", 1)
    return {
        "depths": _depths(entries, r"layer(\d)\.(\d+)\."),
        "blocks": "bottleneck" if bottleneck else "basic",
        "stem": {0: 0, 7: "7x7"}.get(_width(entries, "conv1.weight", 3), "deep"),
        "width": _width(entries, "layer1.0.conv2.weight"),
        "groups": _width(entries, "layer1.0.conv1.weight") // group if group else 0,
    }


def _registered_signature(name: str) -> dict[str, Any]:
    entry, family = spec(name), _family_of(name)
    arguments = entry.arguments
    if family == "mit":
        return {"widths": tuple(entry.channels), "depths": tuple(arguments["depths"])}
    if family == "swin":
        heads = arguments["heads"][0]
        return {"width": arguments["width"], "depths": tuple(arguments["depths"]), "heads": heads, "window": 7}
    if family == "efficientnet":
        groups = [group for stage in arguments["groups"] for group in stage]
        return {"stem": arguments["stem"], "blocks": tuple(width for width, *_, count in groups for _ in range(count))}
    return {"depths": tuple(arguments["depths"]), "blocks": "bottleneck", "stem": "7x7", "width": 64, "groups": 1}
