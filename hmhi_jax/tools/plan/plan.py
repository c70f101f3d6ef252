"""A plan: the training and the inference step on some chips, what fits, which checkpoint policy to take; as text for
people and as JSON."""

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

from ml_collections import ConfigDict

from hmhi_jax.errors import InputError
from hmhi_jax.tools.plan.programs import Measured, lower_inference, lower_training, measure, planned_mesh
from hmhi_jax.tools.plan.topology import Topology, devices_of, memory_text
from hmhi_jax.training.clip_forward import CheckpointPolicy
from hmhi_jax.training.mesh import DATA, SPACE

# From the one that computes least to the one that needs least memory.
POLICIES: tuple[CheckpointPolicy, ...] = get_args(CheckpointPolicy)
MOST_SEARCHED = 256  # clips per chip; more is never wanted


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """One compiled program within a plan.

    Attributes:
        name: "training step", "encode (8 frames x 4 videos)", ...
        per_chip: clips or videos a chip works on.
        fits: within the chip's usable memory; None where the chip's memory is unknown.
        utilisation: share of the chip's peak if a step took the compiler's estimate; None without one.
        bound_seconds: FLOPs at the chip's peak; None where unknown.
        measured: what the compiler says.
    """

    name: str
    per_chip: float
    fits: bool | None
    utilisation: float | None
    bound_seconds: float | None
    measured: Measured


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run needs on some chips, as `hmhi plan` prints it.

    Attributes:
        settings: of the config, those that matter here.
        tried: training steps by checkpoint policy, in the order tried, at the batch asked for.
        policy: the first of them that fits; None if none does, or nothing was tried.
        largest: clips that fit on one chip with that policy; None if not searched.
        inference: programs of inference.
    """

    topology: Topology
    mesh: dict[str, int]
    settings: dict[str, Any]
    global_batch: int
    tried: dict[str, PlannedStep]
    policy: str | None
    largest: int | None
    inference: list[PlannedStep]

    @property
    def fits(self) -> bool:
        """Whether all that was planned fits."""
        wanted = [self.tried[self.policy]] if self.policy else list(self.tried.values())
        return all(step.fits is not False for step in (*wanted, *self.inference))


def make_plan(
    config: ConfigDict,
    topology: Topology,
    *,
    global_batch: int | None = None,
    checkpoint: str | None = None,
    search: bool = True,
    training: bool = True,
    inference: bool = True,
    lanes: int = 4,
    chunk: int = 8,
    note: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Compile what the run needs and gather the figures.

    Args:
        config: of a training run.
        topology: which chips.
        global_batch: clips of a step over all chips; None takes `config.data.batch_size`.
        checkpoint: the policy to plan; None tries the config's own first, and then those that need less memory, until
            one fits.
        search: look for the largest number of clips a chip can take, with the policy found.
        training, inference: which programs.
        lanes, chunk: videos a chip works on in inference, and frames encoded together.
        note: told what is compiled next; that may take minutes.

    Raises `InputError` for a config or a batch that does not suit the chips, or a missing compiler.
    """
    devices = devices_of(topology)
    batch = global_batch or config.data.batch_size
    first = _policy(checkpoint or config.step.checkpoint)
    chosen = [first] if checkpoint else POLICIES[POLICIES.index(first) :]
    mesh = planned_mesh(devices, config.mesh.space)
    sizes = {DATA: mesh.shape[DATA], SPACE: mesh.shape[SPACE]}

    def planned(name: str, per_chip: float, lowered: Any, axes: dict[str, int]) -> PlannedStep:
        return judge(name, per_chip, measure(lowered, topology, axes), topology, config.model.dtype)

    tried: dict[str, PlannedStep] = {}
    best = None
    for policy in chosen if training else ():
        note(f"training step, {batch} clips over {topology.count} chips, checkpoint={policy}")
        lowered = lower_training(config, mesh, batch, policy)
        tried[policy] = planned("training step", batch / topology.count, lowered, sizes)
        if tried[policy].fits is not False:
            best = policy
            break
    largest = _largest(config, topology, best or chosen[-1], note) if training and search else None
    steps = []
    if inference:
        note(f"inference, {lanes} videos a chip")
        frames = {"encode": f"encode, {chunk} frames", "step": "one frame"}
        for name, lowered in lower_inference(config, devices, lanes, chunk).items():
            title = f"{frames[name]} of {lanes} videos a chip"
            steps.append(planned(title, float(lanes), lowered, {"lanes": topology.count}))
    settings = {
        "backbone": config.model.backbone, "size": list(config.data.sizes[-1]), "frames": config.data.frames,
        "memory_frames": config.model.memory_frames, "dtype": config.model.dtype, "accumulate": config.step.accumulate,
    }  # fmt: skip
    return Plan(topology, sizes, settings, batch, tried, best, largest, steps)


def judge(name: str, per_chip: float, measured: Measured, topology: Topology, dtype: str) -> PlannedStep:
    """The compiler's figures held against the chip's."""
    chip = topology.chip
    peak = chip.peak[dtype] if chip.peak else None
    limit = usable(topology)
    room = not measured.refused and (measured.needed is None or limit is None or measured.needed <= limit)
    fits = None if limit is None else room
    bound = measured.flops / peak if peak else None
    utilisation = bound / measured.seconds if bound and measured.seconds else None
    return PlannedStep(name, per_chip, fits, utilisation, bound, measured)


def usable(topology: Topology) -> int | None:
    """Bytes a program may take of a chip's memory."""
    return int(topology.chip.memory * topology.chip.usable) if topology.chip.memory else None


def _policy(name: str) -> CheckpointPolicy:
    for policy in POLICIES:
        if policy == name:
            return policy
    raise InputError(f"checkpoint policy {name!r}: expected one of {', '.join(POLICIES)}")


def _largest(
    config: ConfigDict, topology: Topology, policy: CheckpointPolicy, note: Callable[[str], None]
) -> int | None:
    """Clips per chip that fit, found on one chip (or one group of chips that share a clip)."""
    limit = usable(topology)
    if limit is None:
        return None
    space = config.mesh.space
    alone = topology.single() if space == 1 else topology
    devices = devices_of(alone)[:space]
    mesh = planned_mesh(devices, space)

    def needed(clips: int) -> int | None:
        batch = clips * config.step.accumulate
        note(f"search: {batch} clips on {'one chip' if space == 1 else f'{space} chips'}, checkpoint={policy}")
        measured = measure(lower_training(config, mesh, batch, policy), alone, {DATA: 1, SPACE: space})
        return None if measured.refused else measured.needed

    return largest_that_fits(needed, limit, MOST_SEARCHED) * config.step.accumulate


def largest_that_fits(needed: Callable[[int], int | None], limit: int, most: int = 4096) -> int:
    """The largest n >= 1 with `needed(n) <= limit`, for a need that grows with n; 0 if even 1 does not fit.

    Every call costs a compilation, so the next n to try is where a line through the two nearest known needs meets the
    limit: memory is nearly linear in the batch, and four calls are usual.

    Args:
        needed: bytes for a batch of n; None if unknown because it was refused.
        limit: bytes there are.
        most: largest n to consider.
    """
    known: dict[int, int | None] = {}

    def fits(n: int) -> bool:
        known[n] = need = needed(n)
        return need is not None and need <= limit

    low, high = 0, most + 1  # low fits (or is 0), high does not (or is out of question)
    guess = 1
    while high - low > 1:
        guess = min(max(guess, low + 1), high - 1)
        if fits(guess):
            low = guess
        else:
            high = guess
        guess = _next(known, limit, low, high)
    return low


def _next(known: dict[int, int | None], limit: int, low: int, high: int) -> int:
    points = sorted((n, need) for n, need in known.items() if need is not None)
    nearest = sorted(points, key=lambda point: abs(point[1] - limit))[:2]
    match sorted(nearest):
        case [(n0, need0), (n1, need1)] if need1 > need0:
            crossing = n0 + (limit - need0) * (n1 - n0) / (need1 - need0)
            # From below first the place itself, then the one above it, which should not fit: that ends the search.
            return int(crossing) if int(crossing) > low else low + 1
    return 2 * low if high not in known else (low + high) // 2


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
