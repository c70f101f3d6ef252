"""Names of RAFT's entries: ours, torchvision's, and those of the paper's authors, as tables of rules.

A rule turns a path of ours, without its leaf, into the name of a module there. Leaves and layouts are those of
`torch_names`.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

from hmhi_jax.interop.torch_names import layout

_T = TypeVar("_T")
_ENCODER = r"(feature|context)_encoder"

TORCHVISION = [
    (rf"{_ENCODER}/stem", r"\1_encoder.convnormrelu.0"),
    (rf"{_ENCODER}/stem_norm/batch", r"\1_encoder.convnormrelu.1"),
    (rf"{_ENCODER}/stage(\d)_block(\d)/conv(\d)", r"\1_encoder.layer\2.\3.convnormrelu\4.0"),
    (rf"{_ENCODER}/stage(\d)_block(\d)/norm(\d)/batch", r"\1_encoder.layer\2.\3.convnormrelu\4.1"),
    (rf"{_ENCODER}/stage(\d)_block(\d)/downsample", r"\1_encoder.layer\2.\3.downsample.0"),
    (rf"{_ENCODER}/stage(\d)_block(\d)/downsample_norm/batch", r"\1_encoder.layer\2.\3.downsample.1"),
    (rf"{_ENCODER}/head", r"\1_encoder.conv"),
    (r"motion_encoder/correlation(\d)", r"update_block.motion_encoder.convcorr\1.0"),
    (r"motion_encoder/flow(\d)", r"update_block.motion_encoder.convflow\1.0"),
    (r"motion_encoder/fuse", r"update_block.motion_encoder.conv.0"),
    (r"gru(\d)/update_gate", r"update_block.recurrent_block.convgru\1.convz"),
    (r"gru(\d)/reset_gate", r"update_block.recurrent_block.convgru\1.convr"),
    (r"gru(\d)/candidate", r"update_block.recurrent_block.convgru\1.convq"),
    (r"flow_head/hidden", r"update_block.flow_head.conv1"),
    (r"flow_head/output", r"update_block.flow_head.conv2"),
    (r"mask_head/hidden", r"mask_predictor.convrelu.0"),
    (r"mask_head/output", r"mask_predictor.conv"),
]

# From the authors' names to torchvision's, leaf included. The small network has one GRU, whose number is left out.
_AUTHORS = [
    (r"fnet\.(.*)", r"feature_encoder/\1"),
    (r"cnet\.(.*)", r"context_encoder/\1"),
    (r"(.*)/conv1\.(\w+)", r"\1.convnormrelu.0.\2"),
    (r"(.*)/norm1\.(\w+)", r"\1.convnormrelu.1.\2"),
    (r"(.*)/conv2\.(\w+)", r"\1.conv.\2"),
    (r"(.*)/(layer\d\.\d)\.conv(\d)\.(\w+)", r"\1.\2.convnormrelu\3.0.\4"),
    (r"(.*)/(layer\d\.\d)\.norm([12])\.(\w+)", r"\1.\2.convnormrelu\3.1.\4"),
    (r"(.*)/(layer\d\.\d\.downsample\.\d\.\w+)", r"\1.\2"),
    (r"update_block\.encoder\.convc(\d)\.(\w+)", r"update_block.motion_encoder.convcorr\1.0.\2"),
    (r"update_block\.encoder\.convf(\d)\.(\w+)", r"update_block.motion_encoder.convflow\1.0.\2"),
    (r"update_block\.encoder\.conv\.(\w+)", r"update_block.motion_encoder.conv.0.\1"),
    (r"update_block\.gru\.conv([zrq])(\d)\.(\w+)", r"update_block.recurrent_block.convgru\2.conv\1.\3"),
    (r"update_block\.gru\.conv([zrq])\.(\w+)", r"update_block.recurrent_block.convgru1.conv\1.\2"),
    (r"update_block\.mask\.0\.(\w+)", r"mask_predictor.convrelu.0.\1"),
    (r"update_block\.mask\.2\.(\w+)", r"mask_predictor.conv.\1"),
]
_AUTHORS_ALONE = re.compile(r"(fnet|cnet)\.|update_block\.(encoder|gru|mask)\.")
# In the authors' blocks the norm behind the projection is a member under two names; one of them is read.
_TWICE = re.compile(r"(fnet|cnet)\.layer\d\.\d\.norm[34]\.\w+")
COUNTER = re.compile(r".*\.num_batches_tracked")


def torchvision_name(path: str, rank: int) -> str:
    """torchvision's name of the array at a path of ours, without its collection; KeyError where no rule covers it."""
    module = path.rsplit("/", 1)[0]
    for pattern, replacement in TORCHVISION:
        if match := re.fullmatch(pattern, module):
            return f"{match.expand(replacement)}.{layout(path, rank).leaf}"
    raise KeyError(f"no name rule covers {path}")


def are_authors_names(names: Mapping[str, object]) -> bool:
    """Whether entries are named as in the authors' files."""
    return any(_AUTHORS_ALONE.match(name) for name in names)


def are_raft_names(names: Mapping[str, object]) -> bool:
    """Whether entries are those of a RAFT network, by torchvision's names or the authors'."""
    parts = {name.split(".", 1)[0] for name in names}
    return "update_block" in parts and bool(parts & {"feature_encoder", "context_encoder", "fnet", "cnet"})


def from_authors_names(entries: Mapping[str, _T]) -> tuple[dict[str, _T], list[str]]:
    """The same entries by torchvision's names, and the names of those that stand there a second time, left out.

    A name that no rule covers stays as it is.
    """
    twice = [name for name in entries if _TWICE.fullmatch(name) and _twin(name, entries)]
    return {_renamed(name): entry for name, entry in entries.items() if name not in twice}, twice


def _twin(name: str, entries: Mapping[str, object]) -> bool:
    block, leaf = name.rsplit(".", 2)[0], name.rsplit(".", 1)[1]
    return f"{block}.downsample.1.{leaf}" in entries


def _renamed(name: str) -> str:
    for pattern, replacement in _AUTHORS:
        if match := re.fullmatch(pattern, name):
            name = match.expand(replacement)
            if "/" not in name:
                return name
    return name.replace("/", ".")
