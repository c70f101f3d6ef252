"""The names under which encoders trained on ImageNet are published, turned into the release's.

Whose names a file uses is recognised by a marker; the tables are in `dialect_names`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hmhi_jax.errors import InputError
from hmhi_jax.interop.dialect_names import DIALECTS, Dialect


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

    Raises:
        InputError: if no dialect fits, or an entry cannot be taken apart as its name asks.
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
