"""Predict data sets and score them: `python eval.py --config configs/davis_eval.py --workdir runs/davis`.

The config is one with a section `eval`, or that of a training run, whose weights are then taken from the work
directory. Fields can be set on the command line: `--config.eval.weights=tiny`. Started again with the same arguments,
finished videos are not predicted again. docs/evaluation.md says what comes out.
"""

import sys

from absl import app, flags
from ml_collections import config_flags

from hmhi_jax.cli.options import parse_config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for predictions and reports, or that of a training run.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, where several processes share videos.")
_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes share the videos.")
_PROCESS = flags.DEFINE_integer("process_index", None, "Which of them this is, from 0.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    from hmhi_jax.errors import InputError
    from hmhi_jax.progress import doing

    doing("starting")
    from hmhi_jax.training.companions import joined

    try:
        with joined(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value):
            from hmhi_jax.runs.evaluate import run

            sys.exit(run(_CONFIG.value, _WORKDIR.value))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_config_flags)
