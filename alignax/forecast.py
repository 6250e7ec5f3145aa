"""What an experiment's update takes on devices that are not at hand: memory, arithmetic, traffic.

The update itself is compiled for them, by the compiler that they would use; nothing is run, no
weights are read and no data: every group is taken to be as long as is said.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.table import Table

from alignax.config import Experiment
from alignax.core.errors import BadInput
from alignax.core.records import Demonstration, Preference
from alignax.data.builder import token_counts
from alignax.data.pipeline import TokenArrays, build_step
from alignax.data.plan import Lengths, make_plan
from alignax.data.tokenise import Example
from alignax.models.config import DecoderConfig
from alignax.programs import make_compiled_step
from alignax.run import Run
from alignax.topology import GIB, Topology
from alignax.train import optim as optim_lib
from alignax.train import sharding
from alignax.train.collectives import Collective, collectives
from alignax.train.step import init_state

ROOM = 0.97  # of the memory that XLA plans with: the rest is the runtime's own


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Groups that are all alike.

    Fields:
        prompt, response: tokens. responses: to a prompt.
    """

    prompt: int
    response: int
    responses: int

    @property
    def lengths(self) -> Lengths:
        """Of the one group there is."""
        return token_counts([self[0]])

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Example:
        tokens = np.ones(self.responses * self.response, np.int32)
        lengths = np.full(self.responses, self.response, np.int32)
        scores = np.zeros(self.responses, np.float32)
        prompt = np.ones(self.prompt, np.int32)
        return Example(prompt, tokens, lengths, np.ones(len(tokens), bool), scores, "")


class Bytes(NamedTuple):
    """On each device. What is donated is counted once.

    Fields:
        parameters, optimiser, batch: what the update is given.
        gradients: of the parameters, and activations: inputs of blocks, kept for the backward
            pass; both by shape, and part of what is temporary.
        temporary: all that the compiler plans beside what is given.
        total: what is given, and temporary.
    """

    parameters: int
    optimiser: int
    batch: int
    gradients: int
    activations: int
    temporary: int
    total: int


class Forecast(NamedTuple):
    """Of one update.

    Fields:
        memory: None where the compiler found no way to fit it; then `needed` says what it wanted.
        needed: bytes on each device.
        flops: of all devices, counted by hand: products of matrices.
        traffic: what devices send each other.
        compute, links, state: seconds that arithmetic, traffic and reading the state take at least.
    """

    topology: Topology
    changes: tuple[str, ...]
    memory: Bytes | None
    needed: int
    flops: float
    tokens: int
    traffic: list[Collective]
    compute: float
    links: float
    state: float

    @property
    def fits(self) -> bool:
        """Whether a device has room for it."""
        chip = self.topology.chip
        return self.memory is not None and (chip is None or self.needed <= ROOM * _memory(self))

    @property
    def at_least(self) -> float:
        """Seconds: where all three run side by side."""
        return max(self.compute, self.links, self.state)

    @property
    def at_most(self) -> float:
        """Seconds: where none of them hides another."""
        return self.compute + self.links + self.state


def forecast(
    experiment: Experiment, topology: Topology, boxes: Boxes, changes: tuple[str, ...] = ()
) -> Forecast:
    """Compiles an experiment's update for a topology.

    Raises:
        BadInput: a mesh or a batch that does not divide; an adapter, whose base is read to be
            known.
    """
    if experiment.adapter is not None:
        raise BadInput("a whole model", "an adapter", "Leave it out.", where="adapter")
    run = Run(experiment, quiet=True)
    run.mesh = sharding.make_mesh(experiment.mesh, topology.devices)
    loop, shards = experiment.loop, sharding.shards(run.mesh)
    plan = make_plan(
        boxes.lengths,
        batch_size=loop.batch_size,
        accumulation=loop.gradient_accumulation_steps,
        num_steps=1,
        seed=0,
        shards=shards,
    )
    numbers = {}
    if run.method.needs().reference:
        numbers["ref_logprobs"] = TokenArrays.empty(boxes.lengths)
    arrays = build_step(boxes, plan, 0, numbers)
    abstract, axes, places = run.trained
    optimizer = optim_lib.make_optimizer(experiment.optim, 1, axes)
    shardings = sharding.state(run.mesh, places, optimizer, abstract)
    state = _placed(
        jax.eval_shape(functools.partial(init_state, optimizer=optimizer), abstract), shardings
    )
    rows = sharding.rows(run.mesh, leading=1)
    given = _placed(arrays, jax.tree.map(lambda _: rows, arrays))
    with jax.set_mesh(run.mesh):
        lowered = make_compiled_step(run, plan, optimizer, shardings, None).lower(state, *given)
    config, shape = run.decoder.config, plan.shape
    flops = operations(config, plan, recomputed=experiment.model.remat == "block")
    tokens = shape.rows // shards * shape.row_length // run.mesh.shape["sequence"]
    kept = tokens * config.width * config.layers
    activations = kept * (2 if experiment.model.dtype == "bfloat16" else 4)
    parts = {
        "parameters": _local(state.params),
        "optimiser": _local(state.opt_state),
        "batch": _local(given),
        "gradients": _local(state.params),
        "activations": activations,
    }
    memory, needed, traffic = None, 0, []
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = _wanted(str(error))
    else:
        found = compiled.memory_analysis()
        needed = found.argument_size_in_bytes + found.temp_size_in_bytes
        needed += found.output_size_in_bytes - found.alias_size_in_bytes
        memory = Bytes(**parts, temporary=found.temp_size_in_bytes, total=needed)
        traffic = collectives(compiled.as_text())
    chip, count = topology.chip, run.mesh.size
    compute = links = reading = 0.0
    if chip is not None:
        halves = _halves(topology)
        compute = flops / count / (chip.flops / halves)
        links = sum(x.sent for x in traffic) / (chip.links / halves)
        # Parameters and moments are read and written once, whatever else there is.
        reading = 2 * (parts["parameters"] + parts["optimiser"]) / (chip.bandwidth / halves)
    tokens = plan.accumulation * shape.rows * shape.row_length
    return Forecast(
        topology, changes, memory, needed, flops, tokens, traffic, compute, links, reading
    )


def nearest_that_fits(
    experiment: Experiment, topology: Topology, boxes: Boxes
) -> tuple[Forecast, Forecast | None]:
    """The forecast; and where it does not fit, that of the smallest change which makes it fit.

    Tried in turn, each on top of those before: blocks computed again, parameters split over more
    devices in place of copied, and smaller micro-batches.
    """
    first = forecast(experiment, topology, boxes)
    if first.fits:
        return first, None
    changes: list[str] = []
    for change, made in _changes(experiment, len(topology.devices)):
        changed = made(experiment)
        try:
            found = forecast(changed, topology, boxes, (*changes, change))
        except BadInput:  # does not divide: a change that cannot be is none
            continue
        experiment, changes = changed, [*changes, change]
        if found.fits:
            return first, found
    return first, None


def _changes(experiment: Experiment, devices: int) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []

    def change(name: str, room: str, **fields: Any) -> None:
        def made(experiment: Experiment) -> Experiment:
            part = dataclasses.replace(getattr(experiment, room), **fields)
            return dataclasses.replace(experiment, **{room: part})

        found.append((name, made))

    if experiment.model.remat != "block":
        change("--model.remat block", "model", remat="block")
    data, fsdp, sequence, tensor = experiment.mesh.sizes(devices)
    if data > 1:
        whole = {"data": 1, "fsdp": data * fsdp, "sequence": sequence, "tensor": tensor}
        change(f"--mesh.data 1 --mesh.fsdp {data * fsdp}", "mesh", **whole)
    steps = experiment.loop.gradient_accumulation_steps
    while experiment.loop.batch_size % (2 * steps * data * fsdp) == 0:
        steps *= 2
        name = f"--loop.gradient-accumulation-steps {steps}"
        change(name, "loop", gradient_accumulation_steps=steps)
    return found


def operations(config: DecoderConfig, plan: Any, *, recomputed: bool) -> float:
    """Products of matrices of one update, two operations a term, padding included.

    A token attends to the mean of what is before it in its row, as kernels do that leave out the
    blocks in which nothing is seen.
    """
    shape = plan.shape
    tokens = plan.accumulation * shape.rows * shape.row_length
    scored = plan.accumulation * shape.shards * shape.scored
    heads = config.heads * config.head_dim
    attention = config.width * config.head_dim * (2 * config.heads + 2 * config.kv_heads)
    mlp = (3 if config.gated else 2) * config.width * config.mlp_width
    if config.experts is not None:  # those that a token goes through, and the choice among all
        mlp = config.experts.per_token * mlp + config.width * config.experts.count
    prompt, response = plan.lengths.prompt[0], plan.lengths.response[0]
    seen = prompt * prompt / 2 + (response * (prompt + response / 2)).sum()
    pairs = seen * shape.groups * plan.accumulation
    blocks = config.layers * 2.0 * tokens * (attention + mlp)
    products = config.layers * 4.0 * pairs * heads
    head = 2.0 * scored * config.width * config.vocab_size
    return 3 * (blocks + products + head) + (blocks + products if recomputed else 0)


def _placed(tree: Any, places: Any) -> Any:
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, places
    )


def _local(tree: Any) -> int:
    return sum(
        int(np.prod(x.sharding.shard_shape(x.shape), dtype=np.int64)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


def _halves(topology: Topology) -> float:
    """Devices to a chip: JAX counts two on a v4."""
    chips = np.prod([int(x) for x in topology.name.split(":")[1].split("x")])
    return len(topology.devices) / float(chips)


def _memory(found: Forecast) -> float:
    assert found.topology.chip is not None
    return found.topology.chip.memory / _halves(found.topology)


def _wanted(message: str) -> int:
    """What the compiler says that it would need."""
    said = re.search(r"Used ([\d.]+)([GMK]) of", message)
    if said is None:
        raise BadInput(
            "a program that compiles",
            message.splitlines()[0][:300],
            "Look at the mesh and the model's shape.",
            where="--topology",
        )
    return int(float(said.group(1)) * {"G": GIB, "M": 2**20, "K": 2**10}[said.group(2)])


def boxes_of(
    experiment: Experiment, prompt: int | None, response: int | None, responses: int | None
) -> Boxes:
    """The lengths that are asked for; else half of `max_length` for each of prompt and response."""
    half = experiment.data.limits.max_length // 2
    record = experiment.method.needs().record
    usual = 2 if record is Preference else 1 if record is Demonstration else 4
    return Boxes(prompt or half, response or half, responses or usual)


def tables(found: Forecast) -> list[Table | str]:
    """For people."""
    chip, memory = found.topology.chip, found.memory
    made: list[Table | str] = []
    if memory is not None:
        table = Table(title="bytes on each device, GiB", show_header=False)
        table.add_column(justify="left")
        table.add_column(justify="right")
        for name, value in memory._asdict().items():
            inside = "  of it " if name in ("gradients", "activations") else ""
            table.add_row(inside + name, f"{value / GIB:.3f}")
        if chip is not None:
            table.add_row("there is", f"{_memory(found) / GIB:.1f}")
        made.append(table)
    kinds: dict[tuple[str, int], list[Collective]] = {}
    for one in found.traffic:
        kinds.setdefault((one.kind, one.devices), []).append(one)
    if kinds:
        table = Table("collective", "devices", "times", "sent by each, GiB", title="traffic")
        for (kind, devices), ones in sorted(kinds.items()):
            sent = sum(x.sent for x in ones) / GIB
            table.add_row(kind, str(devices), str(sum(x.times for x in ones)), f"{sent:.3f}")
        made.append(table)
    said = (
        f"[bold]arithmetic[/]: {found.flops / 1e12:,.1f} TFLOP an update, {found.tokens:,} tokens"
    )
    if chip is not None and memory is not None:
        said += (
            f"\n[bold]an update takes[/] {found.at_least:.3f} to {found.at_most:.3f} s: arithmetic "
            f"{found.compute:.3f}, traffic {found.links:.3f}, reading and writing the state "
            f"{found.state:.3f}; from all of it side by side to none. A bound and no promise."
        )
    if found.topology.stands_in:
        said += (
            "\nCompiled for virtual CPUs on the same mesh: what is given and its traffic are the "
            "GPUs' too, what is temporary is XLA:CPU's, without cuDNN's attention."
        )
    fits = "[green]fits[/]" if found.fits else "[red]does not fit[/]"
    room = f" of {_memory(found) / GIB:.1f}" if chip is not None else ""
    made += [said, f"[bold]{found.topology.name}[/]: {fits}, {found.needed / GIB:.2f}{room} GiB"]
    return made


def described(both: Sequence[Forecast | None]) -> list[Table | str]:
    """The forecast, and what would make it fit."""
    first, change = both
    assert first is not None
    if first.fits:
        return tables(first)
    if change is None:
        return [*tables(first), "No change of remat, mesh.fsdp or micro-batches makes it fit."]
    return [*tables(first), f"[bold]fits with[/] {' '.join(change.changes)}:", *tables(change)]
