"""The jobs of the command line: train, evaluate, export.

Each puts a `Run`'s parts to work in the order of the data's way; every line calls the room that
does the work.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.markup import escape

from alignax import card, facts
from alignax.config import Experiment, check
from alignax.core import processes
from alignax.core.errors import BadInput
from alignax.core.own_code import is_own
from alignax.core.rollouts import DIFFERENCE, FROM_REFERENCE
from alignax.core.types import Params, TrainState, held
from alignax.data.plan import check_batch, shaped
from alignax.data.row_shapes import Shape
from alignax.earlier import refuse_another, settings
from alignax.evaluate.report import estimates_table
from alignax.evaluate.stats import Estimate
from alignax.feeds import make_feed, show
from alignax.measuring import Evaluator, held_out, keep_bad, sampled
from alignax.models import peft, pretrained
from alignax.programs import make_compiled_init, make_compiled_step
from alignax.run import Run
from alignax.train import claim, sharding
from alignax.train import optim as optim_lib
from alignax.train.checkpoint import Checkpoints
from alignax.train.checkpoint_names import check_writable, resolve, steps
from alignax.train.compilations import Compilations
from alignax.train.loop import Feed
from alignax.train.loop import train as train_loop
from alignax.train.metrics import Log, MetricLog
from alignax.train.profile import Profile
from alignax.train.unlogged import Unlogged
from alignax.trained import folder_of_export, newest, refuse_what_is_read


def train(
    experiment: Experiment,
    *,
    quiet: bool = False,
    command: Sequence[str] | None = None,
    profile: int | None = None,
    shape: Shape | None = None,
) -> Path:
    """Trains, evaluates and exports; goes on where an earlier run of the same settings stopped.

    Args:
        shape: of batches, which holds every step of this run's plan and of others' in this
            process: runs that differ in seed, length and numbers of the type `Scalar` alone then
            share a compiled update (`alignax.data.plan.alike`).
        command: the words after `alignax train` that started this, for the model card.
        profile: updates to trace, into `profile` of output_dir.

    Returns:
        The exported Hugging Face directory.
    """
    check(experiment)
    quiet = quiet or not processes.is_first()
    run, output = Run(experiment, quiet), Path(experiment.output_dir)
    tracing = None if profile is None else Profile(output / "profile", steps=profile)
    begin(run)
    num_steps = run.num_steps
    optim_lib.check(experiment.optim, num_steps)
    if tracing is not None:
        tracing.check(num_steps)
    if not experiment.rollout:
        if shape is not None:
            run.plan = shaped(run.plan, shape)
        run.describe_plan()
    plan = None if experiment.rollout else run.plan
    wanted = settings(run)
    refuse_another(run, wanted)

    with claim.held(output), jax.set_mesh(run.mesh), Compilations() as compiled:
        params = run.initial_params()
        feed = make_feed(run, params)
        evaluator = Evaluator(run, params, num_steps)

        abstract, axes, places = run.trained
        optimizer = optim_lib.make_optimizer(experiment.optim, num_steps, axes)
        shardings = sharding.state(run.mesh, places, optimizer, abstract)
        step = make_compiled_step(run, plan, optimizer, shardings, tracing, num_steps)
        with (
            Checkpoints(
                output, keep=experiment.loop.keep, target_steps=experiment.loop.target_steps
            ) as checkpoints,
            MetricLog(
                output,
                tensorboard=experiment.tensorboard,
                wandb=experiment.wandb,
                writes=processes.is_first(),
            ) as metrics,
        ):
            make = make_compiled_init(experiment.optim, num_steps, held(axes), held(shardings))
            params = run.initial_trained(params)
            unlogged = Unlogged()
            state = restore(run, checkpoints, metrics, feed, make, params, shardings, unlogged)
            del params  # donated, or no longer needed
            if tracing is not None:
                tracing.check(num_steps - int(state.step))
            facts.keep(run, evaluator.count, command)
            state = train_loop(
                state,
                step,
                feed,
                loop=experiment.loop,
                num_steps=num_steps,
                schedule=optim_lib.schedule(experiment.optim, num_steps),
                put=run.put,
                checkpoints=checkpoints,
                metrics=metrics,
                evaluate=evaluator,
                experiment=wanted,
                whole=run.whole,
                check_first=check_first_step(run),
                show=show(run),
                keep_bad=keep_bad(run),
                timings=compiled.lap,
                unlogged=unlogged,
                quiet=quiet,
            )
        run.say(f"[bold]compiled[/] {compiled}")
        if processes.is_first():
            if tracing is not None:
                run.say(tracing.table(), f"[bold]profile[/]: {escape(tracing.how_to_open)}")
            evaluator.report(metrics.at)
        return export(run, run.policy(state.params), output / "export", step=num_steps)


def begin(run: Run, members: int = 1) -> None:
    """Says what is trained, and on what; refuses what cannot be before anything is computed.

    Args:
        members: runs side by side, each with parameters of its own.
    """
    loop = run.experiment.loop
    check_batch(loop.batch_size, loop.gradient_accumulation_steps, sharding.shards(run.mesh))
    if run.frozen is not None:
        run.frozen.check()
    run.check_export()
    num_params, num_trained = (
        sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
        for tree in (run.network.abstract(), run.trained[0])
    )
    # Parameters and two moments in float32, for each checkpoint kept and the one being written,
    # less those that are there: the oldest makes room once there are more than are kept.
    output = run.experiment.output_dir
    kept = loop.keep + (loop.target_steps is not None)
    more = max(1, kept + 1 - len(steps(resolve(output))))
    check_writable(output, 12 * num_trained * members * more)
    part = f" ({num_trained / 1e6:,.2f}M of an adapter are trained)" if run.frozen else ""
    run.say(
        f"[bold]model[/]: {escape(str(run.model_dir))}, {num_params / 1e6:,.1f}M parameters{part}, "
        f"{run.experiment.model.dtype}; [bold]mesh[/]: {dict(run.mesh.shape)} of "
        f"{jax.devices()[0].platform}; [bold]method[/]: {escape(str(run.method))}"
    )
    run.preflight()
    sampled(run)  # refuses prompts that leave no room to answer


def restore(
    run: Run,
    checkpoints: Checkpoints,
    metrics: Log,
    feed: Feed,
    make: Any,
    params: Params,
    shardings: TrainState,
    unlogged: Unlogged | None = None,
) -> TrainState:
    """The state to go on from: the newest whole checkpoint's, or the first of a fresh run."""
    shapes = jax.eval_shape(make, params)
    abstract = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, shardings
    )
    found = checkpoints.restore(abstract, missing=feed.missing)
    if found is None:
        metrics.rewind(-1)
        return make(params)
    for path, reason in found.skipped:
        run.say(f"[yellow]passed over[/] {escape(path)}: {escape(reason)}")
    metrics.rewind(found.step)
    feed.restore(found.position)
    if unlogged is not None:
        unlogged.restore(found.position)
    if found.step == run.num_steps:
        run.say(f"[bold]finished[/] already, all {found.step} steps: exported again")
    else:
        run.say(f"[bold]resumed[/] from step {found.step} of {run.num_steps}")
    return found.state


def check_first_step(run: Run) -> Any:
    """Policy and reference are the same at step 0, so the method's rewards must be 0."""
    # Rounding of sums over some hundred tokens. In bfloat16 programs round at different places, and
    # a sum's rounding grows with the root of its terms: 0.07 at 1,024 tokens, 1.24B parameters.
    tolerance = {"float32": 1e-3, "bfloat16": 0.1}[run.experiment.model.dtype]
    tolerance /= min(1.0, run.temperature)
    rollout = run.experiment.rollout
    longest = rollout.max_new_tokens if rollout else run.plan.shape.response
    growth = max(1.0, longest / 256) ** 0.5 if run.experiment.model.dtype == "bfloat16" else 1.0
    adapter = run.experiment.adapter
    if adapter is not None and adapter.adapter_name_or_path is not None and adapter.dropout:
        return None  # what is left out of a given adapter tells the two apart from the start

    def look(values: Any) -> None:
        apart = values.get(DIFFERENCE)
        if rollout.server is not None:
            run.say("[yellow]not checked[/]: whether the server has the weights that are trained")
        elif apart is not None and rollout.sampling(run.method).source == "policy":
            if apart > tolerance:
                raise BadInput(
                    "what samples and what is trained to agree before the first update",
                    f"log-probabilities that are {apart:.3g} nats a token apart",
                    'Set model.dtype="float32"; where it is that, please report this.',
                    where="step 1",
                )
            run.say(f"[green]✓[/] sampler equals trainer before the first update: {apart:.1e} nats")
        margin, moved = values.get("rewards/margins", 0.0), values.get(FROM_REFERENCE, 0.0)
        if not run.method.needs().reference:
            return
        # A mean margin is sharper for sums, and the distance of tokens sees what cancels in it.
        margins = f"mean margin {margin:.1e}, " if "rewards/margins" in values else ""
        if abs(margin) > tolerance * growth and moved <= tolerance and not is_own(type(run.method)):
            raise BadInput(
                "the metric rewards/margins to be 0 before the first update",
                f"{margin:.3g}, while policy and reference agree: their log-probabilities are "
                f"{moved:.1e} nats a token apart",
                "By this name the reward of the chosen response less that of the rejected is "
                "known, both measured from the reference. Give what is no such margin another "
                "name in the loss's metrics.",
                where=f"step 1: {type(run.method).__name__}.loss",
            )
        if abs(margin) > tolerance * growth or moved > tolerance:
            raise BadInput(
                "policy and reference to agree before the first update",
                f"{margins}log-probabilities that are {moved:.3g} nats a token apart, loss "
                f"{values['loss']:.6f}",
                "The reference's log-probabilities are of another model or of other data: delete "
                "data.cache_dir."
                if not rollout
                else 'Set model.dtype="float32"; where it is that, please report this.',
                where="step 1",
            )
        run.say(
            f"[green]✓[/] policy equals reference before the first update: loss "
            f"{values['loss']:.7f}, {margins}{moved:.1e} nats a token"
        )

    return look


def export(run: Run, params: Params, directory: Path, *, step: int) -> Path:
    """Writes a Hugging Face directory: weights, tokenizer, the template of training, a card.

    Args:
        params: of the policy, or of its adapter: then the merged model is written, or the adapter,
            as the settings say.
        step: updates that the parameters have behind them.
    """
    given = run.experiment.data.chat_template
    beside: dict[str, Any] = {
        "source": run.model_dir,
        "chat_template": None if given is None else run.renderer.text,
        "chat_template_kwargs": run.experiment.data.chat_template_kwargs,
        "card": card.write(run, step),
    }
    if run.frozen is not None:
        adapter = run.frozen.adapter
        if adapter.settings.export == "adapter":
            base = run.experiment.model.model_name_or_path
            peft.save(directory, params, adapter, base=base, **beside)
            run.say(f"[bold]exported the adapter[/]: {escape(str(directory))}")
            return directory
        params = run.frozen.join(params)
    pretrained.save(
        directory,
        params,
        run.decoder.config,
        eos=tuple(sorted(run.renderer.end_ids)),
        **run.described_scores,
        **beside,
    )
    run.say(f"[bold]exported[/]: {escape(str(directory))}")
    return directory


def evaluate(experiment: Experiment, *, quiet: bool = False) -> dict[str, Estimate]:
    """Measures the newest checkpoint on the held-out data, against the reference."""
    check(experiment)
    run = Run(experiment, quiet or not processes.is_first())
    run.check_method()
    with jax.set_mesh(run.mesh):
        step, params = newest(run)
        params = params if run.frozen is None else run.frozen.join(params)
        reference_params = run.initial_policy()
        answer = sampled(run)  # which may refuse, and computes nothing
        measure = held_out(run, reference_params)
        if measure is None and answer is None:
            raise _nothing_to_measure(run)
        found = {}
        if measure is not None:
            found |= measure(params, progress=run.bar(f"evaluate step {step}"))
        if answer is not None:
            answers = answer(params, reference_params, progress=run.bar("sample answers"))
            found |= answers.estimates
    run.say(estimates_table({}, found))
    return found


def export_newest(
    experiment: Experiment, directory: Path | None, *, step: int | None = None, quiet: bool = False
) -> Path:
    """Writes the newest checkpoint, or that of one step, as a Hugging Face directory.

    Args:
        directory: None for one in output_dir, as `trained.folder_of_export` names it.

    Raises:
        BadInput: no such checkpoint, one of other settings, or a directory that the run reads.
    """
    check(experiment)
    run = Run(experiment, quiet or not processes.is_first())
    if directory is not None:
        refuse_what_is_read(run, directory)
    with jax.set_mesh(run.mesh):
        found, params = newest(run, step, base=run.frozen is not None)
        directory = directory or folder_of_export(run, found, asked=step is not None)
        return export(run, params, directory, step=found)


def _nothing_to_measure(run: Run) -> BadInput:
    """Why neither held-out groups nor answers are there."""
    data, evaluation = run.experiment.data, run.experiment.evaluation
    if (data.eval or evaluation.prompts) is None or run.method.needs().head == "reward":
        return BadInput("held-out data", "none", "Set data.eval.", where="data.eval")
    return BadInput(
        "held-out prompts to answer, for there is nothing else to measure",
        str(evaluation.num_prompts),
        "Set evaluation.num_prompts, such as 64.",
        where="evaluation.num_prompts",
    )
