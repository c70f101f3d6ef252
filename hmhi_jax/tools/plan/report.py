"""A plan as text for people and as JSON."""

import dataclasses
from typing import Any

from hmhi_jax.tools.plan.plan import Plan, PlannedStep, usable
from hmhi_jax.tools.plan.topology import memory_text

SMALL = 2**20  # bytes a step; smaller exchanges are added up in one line
_KINDS = (
    ("argument", "arguments (parameters, optimiser, batch)"), ("output", "outputs"),
    ("alias", "of these in arguments' place"), ("temp", "temporaries"), ("generated_code", "code"),
)  # fmt: skip


def as_json(plan: Plan) -> dict[str, Any]:
    """Plain values; seconds, bytes, FLOPs per chip and step."""
    chip = plan.topology.chip

    def step(planned: PlannedStep) -> dict[str, Any]:
        fields = dataclasses.asdict(planned)
        return {**{k: v for k, v in fields.items() if k != "measured"}, **fields["measured"]}

    return {
        "topology": str(plan.topology), "chips": plan.topology.count, "mesh": plan.mesh, "chip": vars(chip),
        "usable_bytes": usable(plan.topology), "config": plan.settings, "global_batch": plan.global_batch,
        "fits": plan.fits, "checkpoint": plan.policy, "largest_clips_per_chip": plan.largest,
        "training": {policy: step(planned) for policy, planned in plan.tried.items()},
        "inference": [step(planned) for planned in plan.inference],
    }  # fmt: skip


def as_text(plan: Plan) -> str:
    """The plan for people, in lines."""
    topology, chip, s = plan.topology, plan.topology.chip, plan.settings
    mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
    lines = [
        f"{topology}: {topology.count} chip{'s' if topology.count > 1 else ''}, mesh {mesh}",
        f"{s['backbone']}, {s['size'][0]} x {s['size'][1]}, {s['frames']} frames, memory of {s['memory_frames']}, "
        f"{s['dtype']}; {plan.global_batch} clips a step",
    ]
    if chip.memory:
        share = "" if chip.usable == 1 else f" ({chip.usable:.0%} of {memory_text(chip.memory)}, as JAX takes it)"
        lines.append(f"memory a program may use: {memory_text(usable(topology))} a chip{share}")
    for policy, planned in plan.tried.items():
        per_chip = f"{planned.per_chip:g} clip{'s' if planned.per_chip != 1 else ''} a chip"
        lines += ["", f"training step, {per_chip}, checkpoint={policy}: {_verdict(planned)}", *_step(plan, planned)]
    if plan.tried:
        lines += ["", *_advice(plan)]
    for planned in plan.inference:
        lines += ["", f"inference, {planned.name}: {_verdict(planned)}", *_step(plan, planned)]
    return "\n".join(lines) + "\n"


def _verdict(planned: PlannedStep) -> str:
    if planned.fits is None:
        return f"{memory_text(planned.measured.needed)} a chip"
    if planned.measured.refused:
        wanted = planned.measured.needed
        return "does NOT fit" + (f", wants {memory_text(wanted)}" if wanted is not None else "")
    return f"{'fits' if planned.fits else 'does NOT fit'}, {memory_text(planned.measured.needed)} a chip"


def _advice(plan: Plan) -> list[str]:
    lines = []
    if plan.policy:
        lines.append(f"checkpoint policy to take: --config.step.checkpoint={plan.policy}")
    else:
        lines.append("no policy tried fits: fewer clips, step.accumulate, or mesh.space > 1")
    if plan.largest is not None:
        lines.append(f"largest batch with {plan.policy or list(plan.tried)[-1]}: {plan.largest} clips a chip")
    return lines


def _step(plan: Plan, planned: PlannedStep) -> list[str]:
    measured, chip = planned.measured, plan.topology.chip
    if measured.refused:
        return []
    lines = [f"  {title:42} {memory_text(measured.memory[kind]):>12}" for kind, title in _KINDS]
    lines.append(f"  {'FLOPs of products and convolutions':42} {measured.flops / 1e12:>10.3f} T")
    if planned.bound_seconds is not None:
        lines.append(f"  {'at the peak of the chip':42} {planned.bound_seconds * 1e3:>9.1f} ms")
    if measured.seconds is not None:
        lines.append(f"  {'compiler estimate (loops counted)':42} {measured.seconds * 1e3:>9.1f} ms")
        lines.append(f"  {'  of it sorts':42} {(measured.sorting or 0) * 1e3:>9.1f} ms")
        lines.append(f"  {'utilisation of the peak by that':42} {planned.utilisation:>11.0%}")
        lines += [f"    {place:56} {seconds * 1e3:>8.2f} ms" for place, seconds in measured.places[:8]]
    if measured.unknown_loops:
        lines.append(f"  loops whose length depends on data, counted once: {measured.unknown_loops}")
    if not measured.collectives:
        lines.append("  nothing is exchanged between chips")
    large = [row for row in measured.collectives if row.bytes >= SMALL]
    for row in large:
        time = f", at least {row.seconds(chip.link) * 1e3:.2f} ms" if chip.link else ""
        lines.append(
            f"  {row.kind} along {row.axes} ({row.chips} chips): {row.count} x, {memory_text(row.bytes)} a chip{time}"
            f"  [{row.source}]"
        )
    if small := [row for row in measured.collectives if row.bytes < SMALL]:
        total = sum(row.bytes for row in small)
        kinds = ", ".join(sorted({f"{row.kind} along {row.axes}" for row in small}))
        lines.append(f"  {sum(row.count for row in small)} small exchanges ({kinds}): {memory_text(total)} a chip")
    lines.append(f"  compiled in {measured.compile_seconds:.0f} s")
    return lines
