"""A training config from its file, with changes from the command line."""

import ast
import runpy
from collections.abc import Iterable
from pathlib import Path

from ml_collections import ConfigDict

from hmhi_jax.errors import InputError


def load_config(path: Path) -> ConfigDict:
    """What `get_config()` of the file gives, or `get_config(ARGUMENT)` of `FILE.py:ARGUMENT`.

    Raises `InputError` for anything else than a training config.
    """
    file, colon, argument = str(path).partition(".py:")
    path = Path(f"{file}.py") if colon else path
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected a config such as configs/ytvos_mit_b1.py")
    try:
        config = runpy.run_path(str(path))["get_config"](*[argument] * bool(colon))
    except KeyError as error:
        raise InputError(f"{path}: has no function get_config, expected a file like those of configs/") from error
    except Exception as error:
        raise InputError(f"{path}: cannot be run ({type(error).__name__}: {error})") from error
    missing = [name for name in ("model", "data", "step", "mesh", "optimiser") if name not in config]
    if missing:
        raise InputError(f"{path}: has no section {', '.join(missing)}, expected a config of a training run")
    return config


def changed(config: ConfigDict, changes: Iterable[str]) -> ConfigDict:
    """The config with "section.field=value" applied, as `--config.section.field=value` does for `train.py`."""
    config = config.copy_and_resolve_references()
    for change in changes:
        field, equals, text = change.partition("=")
        section, _, name = field.rpartition(".")
        where = config
        for part in filter(None, section.split(".")):
            where = where.get(part, None) if isinstance(where, ConfigDict) else None
        if not equals or not isinstance(where, ConfigDict) or name not in where:
            raise InputError(
                f"--set {change}: expected FIELD=VALUE with a field of the config, such as data.batch_size=64"
            )
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        try:
            with where.ignore_type() if isinstance(where[name], tuple | list) else where.unlocked():
                where[name] = value
        except TypeError as error:
            raise InputError(f"--set {change}: {text} is no value for {field} ({error})") from error
    return config
