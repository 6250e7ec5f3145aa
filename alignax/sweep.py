"""Many runs as one: their states on an axis `s` before all others, their updates one program.

    OUTPUT/checkpoint-N          of all members
    OUTPUT/metrics.jsonl ...     means over the members, and the clock
    OUTPUT/members.jsonl         at the end, a line a member: its settings, its last metrics
    OUTPUT/beta=0.1/seed=3/      of a member what a run of its own leaves, but for checkpoints

A member's update is that of a run of its own, with its seed and its numbers as arguments; it meets
the groups that it would meet alone, in rows of a shape that all members share. So it equals that
run to rounding.
"""

import contextlib
import dataclasses
import functools
import json
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.markup import escape

from alignax import earlier, facts, jobs
from alignax import sweepable as can
from alignax.config import Experiment, check
from alignax.core.errors import BadInput
from alignax.core.types import Batch, Layout, Params, TrainState
from alignax.data.pipeline import Ahead, build_steps
from alignax.data.plan import Plan, alike
from alignax.evaluate.report import members_table
from alignax.evaluate.stats import Estimate, over_seeds
from alignax.measuring import Evaluator
from alignax.members import Sweep, changed
from alignax.run import Run
from alignax.saved import to_json
from alignax.train import claim, sharding
from alignax.train import optim as optim_lib
from alignax.train.checkpoint import Checkpoints
from alignax.train.compilations import Compilations, update_options
from alignax.train.loop import train as train_loop
from alignax.train.member_logs import MemberLogs, by_member, joined, split
from alignax.train.metric_lines import as_line
from alignax.train.metrics import MetricLog
from alignax.train.step import SKIPPED, make_step


def train(
    experiment: Experiment,
    sweep: Sweep,
    *,
    quiet: bool = False,
    command: Sequence[str] | None = None,
) -> Path:
    """Trains, evaluates and exports all members; goes on where an earlier process stopped.

    Args:
        command: the words after `alignax train` that started this, for the model cards.

    Returns:
        The file of all members' settings and last metrics.

    Raises:
        BadInput: settings that members cannot differ in, or that a sweep cannot have.
    """
    members = sweep.members(experiment)
    for member in members:
        check(member)
    can.check(experiment)
    lead, output = Run(experiment, quiet), Path(experiment.output_dir)
    in_turn = jax.default_backend() == "cpu"
    if not in_turn:
        lead.decoder = can.for_all_at_once(lead.decoder)
    can.check_text(lead, sweep)
    if lead.frozen is not None and lead.num_scores and sweep.seeds > 1:
        raise BadInput(
            "one seed where an adapter of a reward model is trained",
            str(sweep.seeds),
            "The seed draws a head that belongs to the base, which members share: train the "
            "seeds one by one.",
            where="--seeds",
        )
    jobs.begin(lead, len(members))
    runs = [lead.like(member) for member in members]  # with all that is made by now
    num_steps = lead.num_steps
    for member in members:
        optim_lib.check(member.optim, num_steps)
    lead.say(f"[bold]sweep[/]: {len(members)} members, {len(sweep.points())} x {sweep.seeds} seeds")
    settings = earlier.settings(lead) | {"sweep": to_json(sweep)}
    earlier.refuse_another(lead, settings, runs)
    plans = alike([run.plan for run in runs[: sweep.seeds]])
    lead.plan = plans[0]
    lead.describe_plan()

    with jax.set_mesh(lead.mesh), Compilations() as compiled, contextlib.ExitStack() as stack:
        stack.enter_context(claim.held(output))
        params = lead.initial_params()
        feed = Feeds(lead, plans, len(sweep.points()), params)
        evaluator = Evaluator(lead, params, num_steps)
        evaluators = [evaluator.of(run) for run in runs]

        abstract, axes, places = lead.trained
        optimizer = optim_lib.make_optimizer(experiment.optim, num_steps, axes)
        alone = sharding.state(lead.mesh, places, optimizer, abstract)
        shardings = TrainState(alone.step, *jax.tree.map(sharding.stacked, alone[1:]))
        loop = experiment.loop
        checkpoints = stack.enter_context(
            Checkpoints(output, keep=loop.keep, target_steps=loop.target_steps)
        )
        log = functools.partial(MetricLog, tensorboard=experiment.tensorboard)
        metrics = MemberLogs(
            stack.enter_context(log(output)),
            [stack.enter_context(log(member.output_dir)) for member in members],
            [float(member.optim.learning_rate) for member in members],
        )
        make = jax.jit(
            lambda params: TrainState(jnp.int32(0), params, jax.vmap(optimizer.init)(params)),
            out_shardings=shardings,
            donate_argnums=0,
        )
        params = _begun(runs, sweep.seeds, shardings.params)
        state = jobs.restore(lead, checkpoints, metrics, feed, make, params, shardings)
        del params  # donated, or no longer needed
        for run in runs:
            facts.keep(run, evaluator.count, command)
        one = jax.jit(lambda tree, i: jax.tree.map(lambda x: x[i], tree), out_shardings=places)

        def evaluate(step: int, params: Params) -> dict[str, float]:
            return joined(
                [
                    look(step, run.whole(one(params, i)))
                    for i, (run, look) in enumerate(zip(runs, evaluators, strict=True))
                ]
            )

        update = make_step_of_all(lead, members, tuple(sweep.grid), num_steps, in_turn=in_turn)
        base = None if lead.frozen is None else lead.frozen.base
        whole = sharding.replicated(lead.mesh)
        step = jax.jit(
            update,
            donate_argnums=0,
            out_shardings=(shardings, whole),
            compiler_options=update_options(),
        )
        state = train_loop(
            state,
            lambda *arrays: step(*arrays, base),
            feed,
            loop=loop,
            num_steps=num_steps,
            # Of a rate of 1: the logs multiply it by each member's.
            schedule=optim_lib.schedule(
                dataclasses.replace(experiment.optim, learning_rate=1.0), num_steps
            ),
            put=lambda arrays: jax.device_put(arrays, sharding.rows(lead.mesh, leading=2)),
            checkpoints=checkpoints,
            metrics=metrics,
            evaluate=evaluate,
            experiment=settings,
            numbers=by_member,
            check_first=_check_first(lead, runs),
            timings=compiled.lap,
            quiet=quiet,
        )
        last = [log.at(num_steps) for log in metrics.members]
        for i, (run, found) in enumerate(zip(runs, last, strict=True)):
            numbers = (found.get("loss", 0.0), found.get("grad_norm", 0.0))
            if found.get(SKIPPED) and not all(map(math.isfinite, numbers)):
                lead.say(f"[yellow]diverged[/], not exported: {escape(run.experiment.output_dir)}")
                continue
            policy, target = run.policy(one(state.params, i)), Path(run.experiment.output_dir)
            jobs.export(run, policy, target / "export", step=num_steps)
            lead.say(f"[bold]exported[/]: {escape(str(target / 'export'))}")
    lead.say(f"[bold]compiled[/] {compiled}")
    lead.say(members_table(_over_seeds(sweep, metrics, num_steps)))
    return _write(output / "members.jsonl", sweep, runs, last)


# --- Parameters, update, feed


def _begun(runs: Sequence[Run], seeds: int, shardings: Params) -> Params:
    """What each member's training begins with, stacked; it depends on the seed alone."""
    first = [run.initial_trained(run.initial_params()) for run in runs[:seeds]]
    stack = jax.jit(
        lambda trees: jax.tree.map(lambda *x: jnp.stack(x * (len(runs) // seeds)), *trees),
        out_shardings=shardings,
    )
    return stack(first)


def make_step_of_all(
    lead: Run,
    members: Sequence[Experiment],
    names: Sequence[str],
    num_steps: int,
    *,
    in_turn: bool,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """The update of all members as a function of their states, their arrays and what is frozen.

    All but the number of updates has an axis of members before all others.

    Args:
        lead: with the plan of the shape that all arrays have.
        names: of the numbers that members differ in.
        in_turn: one member after another inside the program, as fits a machine that one of them
            fills; or every operation for all members at once.
    """
    fitted = dataclasses.replace(lead.experiment, method=lead.method)
    axes, model = lead.trained[1], lead.model_fn(lead.plan)
    join = None if lead.frozen is None else lead.join
    seeds = jnp.array([member.seed for member in members])
    numbers = {
        name: jnp.array([operator.attrgetter(name)(member) for member in members], jnp.float32)
        for name in names
    }

    def update(
        state: TrainState, batch: Batch, layout: Layout, frozen: Params = None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        def one(arrays: tuple[Any, ...]) -> tuple[Any, ...]:
            seed, numbers, params, opt_state, batch, layout = arrays
            own = changed(fitted, numbers)
            optimizer = optim_lib.make_optimizer(own.optim, num_steps, axes)
            step = make_step(
                own.method, model, optimizer, join=join, seed=seed,
                largest_norm=own.loop.largest_grad_norm,
            )  # fmt: skip
            after, metrics = step(TrainState(state.step, params, opt_state), batch, layout, frozen)
            return after.params, after.opt_state, metrics

        each = functools.partial(jax.lax.map, one) if in_turn else jax.vmap(one)
        arrays = (seeds, numbers, state.params, state.opt_state, batch, layout)
        params, opt_state, metrics = each(arrays)
        return TrainState(state.step + 1, params, opt_state), metrics

    return update


class Feeds(Ahead):
    """The batches of every member, those of its seed, on an axis before all others.

    Read ahead as one: threads of their own for each seed would wait for one another.

    Args:
        plans: of each seed, of one shape.
        points: of the grid; all of them meet the same batches.
        params: of the reference.
    """

    def __init__(self, lead: Run, plans: Sequence[Plan], points: int, params: Params):
        data = lead.train_data
        met = np.unique(np.concatenate([plan.groups for plan in plans]))
        numbers = lead.reference(data, lead.policy(params), "train", met)

        def make(index: int) -> Any:
            step = build_steps(data, plans, index, numbers)
            return jax.tree.map(lambda x: np.concatenate([x] * points), step)

        super().__init__(make, len(plans[0]))

    def position(self) -> dict[str, Any]:
        """Where the next step is, as JSON: the same for all seeds."""
        return {"seeds": [super().position()]}

    def restore(self, position: dict[str, Any]) -> None:
        """Goes on from `position`."""
        super().restore(position["seeds"][0])


def _check_first(lead: Run, runs: Sequence[Run]) -> Any:
    looks = [jobs.check_first_step(run) for run in [lead, *runs[1:]]]

    def look(values: Mapping[str, float]) -> None:
        for i, one in enumerate(looks):
            if one is not None:
                one(split(values, i))

    return look


# --- What is said at the end


def _over_seeds(
    sweep: Sweep, metrics: MemberLogs, num_steps: int
) -> list[tuple[dict[str, float], dict[str, Estimate], dict[str, Estimate]]]:
    """For each point of the grid, the held-out numbers before and after, over its seeds."""

    def side(logs: Sequence[MetricLog], step: int) -> dict[str, Estimate]:
        rows = [log.at(step) for log in logs]
        names = dict.fromkeys(n for row in rows for n in row if f"{n}/low" in row)
        return {n: over_seeds(np.array([row.get(n, math.nan) for row in rows])) for n in names}

    parts = []
    for i, point in enumerate(sweep.points()):
        logs = metrics.members[i * sweep.seeds : (i + 1) * sweep.seeds]
        parts.append((point, side(logs, 0), side(logs, num_steps)))
    return parts


def _write(
    path: Path, sweep: Sweep, runs: Sequence[Run], last: Sequence[Mapping[str, float]]
) -> Path:
    """A line a member: where it is, its settings, and its numbers at the last update."""
    points = [point for point in sweep.points() for _ in range(sweep.seeds)]
    with path.open("w", encoding="utf-8") as file:
        for run, point, found in zip(runs, points, last, strict=True):
            place = Path(run.experiment.output_dir).relative_to(path.parent)
            row = {"directory": str(place), "seed": run.experiment.seed, **point}
            file.write(json.dumps(row | json.loads(as_line(run.num_steps, found))) + "\n")
    return path
