"""Command lines of `train.py` and `eval.py`."""

import sys

from absl import app


def parse(arguments: list[str]) -> list[str]:
    """absl's parser for `app.run`, with one line for a field that the config does not have."""
    app.define_help_flags()
    try:
        return app.parse_flags_with_usage(arguments)
    except (AttributeError, KeyError) as error:
        if not any(argument.startswith("--config.") for argument in arguments):
            raise  # of the config's own file
        reason: object = error
        while isinstance(reason, BaseException):
            reason = reason.args[0]
        print(f"error: --config.: the config has no field {' '.join(str(reason).split())}", file=sys.stderr)
        sys.exit(2)
