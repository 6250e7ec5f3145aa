"""What an experiment's update takes on devices that are not at hand: memory, arithmetic, traffic.

The update itself is compiled for them, by the compiler that they would use; nothing is run, no
weights are read and no data: every group is taken to be as long as is said. What a method takes
from its training data (`Method.fit`) has no part in the arrays of an update, but for the names of
attributes: where they are not given, a reward model has one.
"""

import dataclasses
import functools
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from alignax.config import Experiment
from alignax.core.errors import BadInput
from alignax.core.method import Method, Needs
from alignax.core.records import Attributed, Labelled, Preference, Ranking
from alignax.core.types import Batch, Layout, TrainState
from alignax.data.pipeline import TokenArrays, build_step, token_counts
from alignax.data.plan import Lengths, Plan, make_plan
from alignax.data.tokenise import Example
from alignax.operations import operations
from alignax.programs import make_compiled_step
from alignax.run import Run
from alignax.topology import GIB, Topology
from alignax.train import optim as optim_lib
from alignax.train import sharding
from alignax.train.collectives import Collective, collectives
from alignax.train.step import init_state

ROOM = 0.97  # of the memory that XLA plans with: the rest is the runtime's own
RESPONSES = {Preference: 2, Labelled: 2, Ranking: 4}  # of a group; of other records one


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
        gradients: of the parameters, and block_inputs: kept for the backward pass, whatever else
            of a block is; both by shape, and part of what is temporary.
        temporary: all that the compiler plans beside what is given.
        total: what is given, and temporary.
    """

    parameters: int
    optimiser: int
    batch: int
    gradients: int
    block_inputs: int
    temporary: int
    total: int


class Forecast(NamedTuple):
    """Of one update.

    Fields:
        memory: None where the compiler found no way to fit it; then `needed` says what it wanted.
        needed: bytes on each device.
        flops: of all devices, counted by hand (`operations`).
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
        """Whether a device has room for it, as far as it is known how much that is."""
        room = self.room
        return self.memory is not None and (room is None or self.needed <= ROOM * room)

    @property
    def room(self) -> float | None:
        """Bytes that a device has; None where no limit is known."""
        chip = self.topology.chip
        return None if chip is None else chip.memory / _halves(self.topology)

    @property
    def at_least(self) -> float:
        """Seconds: where all three run side by side."""
        return max(self.compute, self.links, self.state)

    @property
    def at_most(self) -> float:
        """Seconds: where none of them hides another."""
        return self.compute + self.links + self.state


class Update(NamedTuple):
    """An update in shapes alone.

    Fields:
        step: what is compiled. state, arrays: what it is given, with the place of each.
    """

    run: Run
    plan: Plan
    step: Any
    state: TrainState
    arrays: tuple[Batch, Layout]


def update(experiment: Experiment, topology: Topology, boxes: Boxes) -> Update:
    """An experiment's update on a topology.

    Raises:
        BadInput: a mesh or a batch that does not divide; an adapter, whose base is read to be
            known.
    """
    if experiment.adapter is not None:
        raise BadInput("a whole model", "an adapter", "Leave it out.", where="adapter")
    run = Run(experiment, quiet=True)
    run.method = experiment.method  # as it is, for what it would fit to is not read
    run.mesh = sharding.make_mesh(experiment.mesh, topology.devices)
    loop, needs = experiment.loop, run.method.needs()
    plan = make_plan(
        boxes.lengths,
        batch_size=loop.batch_size,
        accumulation=loop.gradient_accumulation_steps,
        num_steps=1,
        seed=0,
        shards=sharding.shards(run.mesh),
    )
    numbers = dict.fromkeys(_per_token(needs), TokenArrays.empty(boxes.lengths))
    batch, layout = build_step(boxes, plan, 0, numbers)
    if needs.head == "reward" and needs.record is Attributed:
        ratings = np.zeros((*batch.scores.shape, run.num_scores), np.float32)
        batch = batch._replace(attributes=ratings)
    abstract, axes, places = run.trained
    optimizer = optim_lib.make_optimizer(experiment.optim, 1, axes)
    shardings = sharding.state(run.mesh, places, optimizer, abstract)
    state = jax.eval_shape(functools.partial(init_state, optimizer=optimizer), abstract)
    rows = sharding.rows(run.mesh, leading=1)
    given = _placed((batch, layout), jax.tree.map(lambda _: rows, (batch, layout)))
    with jax.set_mesh(run.mesh):  # the compiler is asked for what suits its devices, not the host's
        step = make_compiled_step(run, plan, optimizer, shardings, None)
    return Update(run, plan, step, _placed(state, shardings), given)


def _per_token(needs: Needs) -> list[str]:
    """Fields of the batch with a number for each response token, as a run would fill them."""
    sampled = needs.sampling is not None
    there = {
        "ref_logprobs": needs.reference,
        "old_logprobs": sampled,
        "old_values": sampled and needs.head == "value",
    }
    return [name for name, given in there.items() if given]


def arithmetic(made: Update) -> float:
    """Operations of all devices, as `operations` counts them for each decoder."""
    return sum(
        operations(
            decoder.config,
            made.plan,
            recomputed=decoder.remat == "block",
            parts=made.run.mesh.shape["sequence"],
            dtype=decoder.dtype,
        )
        for decoder in made.run.decoders
    )


def by_shape(made: Update) -> dict[str, int]:
    """The fields of `Bytes` that need no compiler."""
    shape, decoders = made.plan.shape, made.run.decoders
    tokens = shape.rows // shape.shards * shape.row_length // made.run.mesh.shape["sequence"]
    kept = tokens * sum(x.config.width * x.config.layers for x in decoders)
    return {
        "parameters": _local(made.state.params),
        "optimiser": _local(made.state.opt_state),
        "batch": _local(made.arrays),
        "gradients": _local(made.state.params),
        "block_inputs": kept * (2 if decoders[0].dtype == "bfloat16" else 4),
    }


def forecast(
    experiment: Experiment, topology: Topology, boxes: Boxes, changes: tuple[str, ...] = ()
) -> Forecast:
    """Compiles an experiment's update for a topology.

    Args:
        changes: that the experiment has already been given; only told on.

    Raises:
        BadInput: as `update` does; or a program that does not compile.
    """
    made = update(experiment, topology, boxes)
    with jax.set_mesh(made.run.mesh):
        flops, parts = arithmetic(made), by_shape(made)
        lowered = made.step.lower(made.state, *made.arrays)
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
    chip, count = topology.chip, made.run.mesh.size
    compute = links = reading = 0.0
    if chip is not None:
        halves = _halves(topology)
        compute = flops / count / (chip.flops / halves)
        links = sum(x.sent for x in traffic) / (chip.links / halves)
        # Parameters and moments are read and written once, whatever else there is.
        reading = 2 * (parts["parameters"] + parts["optimiser"]) / (chip.bandwidth / halves)
    tokens = made.plan.accumulation * made.plan.shape.rows * made.plan.shape.row_length
    return Forecast(
        topology, changes, memory, needed, flops, tokens, traffic, compute, links, reading
    )


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
    """The sizes that are asked for, and else what the experiment suggests.

    A response is as long as the run samples them, or else half of `max_length`; a prompt is half
    of `max_length`, or what a response leaves of it. A group has as many responses as the method
    takes from its type of record, or keeps of what it has sampled; 4 where the data decide.

    Raises:
        BadInput: a size below 1.
    """
    given = {"prompt": prompt, "response": response, "responses": responses}
    for name, value in given.items():
        if value is not None and value < 1:
            raise BadInput(
                "a number of at least 1",
                str(value),
                "Leave it out for what the experiment suggests.",
                where=f"--{name}",
            )
    most, rollout = experiment.data.limits.max_length, experiment.rollout
    response = response or (rollout.max_new_tokens if rollout else max(1, most // 2))
    prompt = prompt or max(1, min(most // 2, most - response))
    return Boxes(prompt, response, responses or _usual_responses(experiment.method))


def _usual_responses(method: Method) -> int:
    needs = method.needs()
    if needs.sampling is None:
        return RESPONSES.get(needs.record, 1)
    drawn = Boxes(1, 1, needs.sampling.num_samples)
    plan = make_plan(drawn.lengths, batch_size=2, num_steps=1)
    numbers = dict.fromkeys(_per_token(needs), TokenArrays.empty(drawn.lengths))
    batch, _ = jax.tree.map(lambda x: x[0], build_step(drawn, plan, 0, numbers))
    return jax.eval_shape(method.select, jax.random.key(0), batch).valid.shape[1]
