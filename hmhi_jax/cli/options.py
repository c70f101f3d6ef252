"""Options that several commands have, and what can be refused of an option before anything is opened."""

import copy
import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from hmhi_jax.errors import InputError

# The names of `hmhi_jax.kernels.platforms.DTYPES`, which is not imported here: reading a help must not wait for JAX.
COMPUTE_DTYPES = ("float32", "tensorfloat32", "bfloat16")


OptionCheck = Callable[[Any, Any, Any], Any]
"""Takes the command's context, the option and its value, and gives the value back."""


def grouped(**groups: str) -> Callable[[Callable], Callable]:
    """Have the help show a command's options in groups: by title (`_` for a space), the names of the parameters."""

    def decorate(function: Callable) -> Callable:
        for title, names in groups.items():
            for name in names.split():
                given = function.__annotations__[name]
                option = copy.copy(given.__metadata__[0])  # other commands may have it too
                option.rich_help_panel = title.replace("_", " ")
                function.__annotations__[name] = Annotated[given.__origin__, option]
        return function

    return decorate


def expected(what: str, accepts: Callable[[Any], bool]) -> OptionCheck:
    """A callback of an option that refuses what `accepts` is false of: "--threshold 3: expected WHAT"."""

    def check(context: Any, parameter: Any, value: Any) -> Any:
        if value is not None and not accepts(value):
            given = " ".join(map(str, value)) if isinstance(value, tuple) else value
            raise InputError(f"{parameter.opts[0]} {given}: expected {what}")
        return value

    return check


def one_of(*names: str) -> OptionCheck:
    """A callback of an option that takes one of some names."""
    return expected(f"{', '.join(names[:-1])} or {names[-1]}", lambda name: name in names)


def at_least(least: int) -> OptionCheck:
    """A callback of an option that counts something."""
    return expected("a positive number" if least == 1 else f"{least} or more", lambda number: number >= least)


side_of_input = expected("a multiple of 32", lambda side: side >= 32 and side % 32 == 0)
frames_between_looks = expected("a number of frames, from 1 to 16", lambda frames: 1 <= frames <= 16)
sides_of_input = expected("two multiples of 32", lambda sides: all(side >= 32 and side % 32 == 0 for side in sides))


def network_size(text: str | None) -> tuple[int, int] | str | None:
    """ "auto", "512" or "480x864" (height first); multiples of 32."""
    if text is None or text == "auto":
        return text
    match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", text)
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(height, width) < 32 or height % 32 or width % 32:
        raise InputError(f"--size {text}: expected HEIGHTxWIDTH in multiples of 32, such as 480x864, or 'auto'")
    return height, width


DatasetArgument = Annotated[Path, Argument(help="Folder of the data set.", metavar="DATASET")]
LayoutOption = Annotated[str | None, Option(help="Its layout, by name; recognised if not given.")]
SplitOption = Annotated[str | None, Option(help="One split, such as train; all of them if not given.")]
FlowsOption = Annotated[Path | None, Option(help="Where flow pictures are, if not in the data set.")]
WorkersOption = Annotated[int | None, Option(min=1, help="Processes; as many as cores if not given.")]
WorkersOrNoneOption = Annotated[
    int | None, Option(min=0, help="Processes; as many as cores if not given, 0 for this one alone.")
]
MemoryOption = Annotated[int | None, Option(min=1, max=1000, help="Capacity of the memory.")]
WeightsOption = Annotated[
    str, Option(help="A shipped name, a .safetensors file, a folder of training or converted, or an export.")
]
FlowWeightsOption = Annotated[
    str | None,
    Option(
        metavar="WEIGHTS",
        help="Of `raft`: torchvision's file, its authors', one of `hmhi convert`, or the beginning of a name in "
        "PyTorch's hub cache. [default: raft_large]",
        show_default=False,
    ),
]
FlowIterationsOption = Annotated[
    int | None,
    Option(help="Of `raft`: how often the flow is improved. [default: 12]", show_default=False, callback=at_least(1)),
]
FlowRecipeOption = Annotated[str | None, Option(help="Flow recipe as JSON (the release's: raw DIS flow).")]


def parse_config_flags(arguments: list[str]) -> list[str]:
    """absl's parser for the `app.run` of `train.py` and `eval.py`, with one line for what cannot be used: a value, a
    field that the config lacks, a config that is not there."""
    from absl import app, flags

    app.define_help_flags()
    flags.FLAGS.verbosity = -1  # unless given: of Orbax and JAX warnings alone, not every step of a checkpoint
    given = [argument.partition("=")[2] for argument in arguments if argument.startswith("--config=")]
    given += [value for option, value in itertools.pairwise(arguments) if option == "--config"]
    try:
        for name in given:
            if not (Path(name).is_file() or Path(name.rpartition(":")[0]).is_file()):
                raise flags.Error(f"--config {name}: no such file")
        return flags.FLAGS(arguments)
    except flags.Error as error:  # of a config's own error the last line says which
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        what = " ".join(dict.fromkeys((lines[0], lines[-1])))
    except (AttributeError, KeyError) as error:
        if not any(argument.startswith("--config.") for argument in arguments):
            raise  # of the config's own file
        reason: object = error
        while isinstance(reason, BaseException):
            reason = reason.args[0]
        what = f"--config.: the config has no field {' '.join(str(reason).split())}"
    print(f"error: {what}", file=sys.stderr)
    sys.exit(2)
