"""A plan of a run's steps on chips that are not there, printed and written."""

import json
from pathlib import Path

from rich.console import Console

from hmhi_jax.complete_files import write_text
from hmhi_jax.tools.plan.topology import check_installed, parse_topology, quiet_environment


def plan(
    config: Path,
    topology: str,
    *,
    changes: list[str],
    global_batch: int | None,
    checkpoint: str | None,
    search: bool,
    training: bool,
    inference: bool,
    lanes: int,
    chunk: int,
    json_file: Path | None,
) -> None:
    """Do what `hmhi plan` was asked for; the arguments are its options."""
    chips = parse_topology(topology)
    check_installed(chips.chip)
    quiet_environment()  # before JAX is imported
    from hmhi_jax.tools.plan.plan import as_json, as_text, make_plan
    from hmhi_jax.tools.plan.programs import changed, load_config

    settings = changed(load_config(config), changes)
    with Console(stderr=True).status("tracing ...") as status:
        made = make_plan(
            settings, chips, global_batch=global_batch, checkpoint=checkpoint, search=search,
            training=training, inference=inference, lanes=lanes, chunk=chunk,
            note=lambda text: status.update(f"compiling: {text}"),
        )  # fmt: skip
    print(as_text(made), end="")
    if json_file:
        write_text(json_file, json.dumps(as_json(made), indent=2) + "\n")
