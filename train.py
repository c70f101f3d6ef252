"""Train HMHI-Net: `python train.py --config configs/davis_mit_b1.py --workdir runs/davis`.

Started again with the same arguments, a run goes on from its newest checkpoint. Fields of the config can be set on the
command line: `--config.optimiser.learning_rate=1e-4`. docs/training.md leads from a data set to a result.
"""

import sys

from absl import app, flags
from ml_collections import config_flags

from hmhi_jax.cli.options import parse_config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, figures, weights.")
_PROFILE = flags.DEFINE_bool("profile", False, "Write a trace of three steps into the work directory.")
_SKIP_BAD = flags.DEFINE_bool("skip_bad", False, "Leave out videos with problems instead of refusing the data set.")
_ACCEPT = flags.DEFINE_list("accept_changes", [], "Config fields that may differ from those of the run's checkpoints.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, where several processes train.")
_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes train together.")
_PROCESS = flags.DEFINE_integer("process_index", None, "Which of them this is, from 0.")
flags.DEFINE_alias("skip-bad", "skip_bad")
flags.DEFINE_alias("accept-changes", "accept_changes")
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
            from hmhi_jax.runs.train import run

            config = _CONFIG.value
            if _SKIP_BAD.value:
                config.data.skip_bad = True
            sys.exit(run(config, _WORKDIR.value, profile=_PROFILE.value, accepted=tuple(_ACCEPT.value)))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_config_flags)
