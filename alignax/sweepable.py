"""What a sweep can be made of: what is refused, and the model that members share."""

import dataclasses

import jax

from alignax.config import Experiment
from alignax.core.errors import BadInput
from alignax.members import Sweep, changed
from alignax.models.transformer import Decoder
from alignax.run import Run


def check(experiment: Experiment) -> None:
    """Refuses settings that members could not share.

    Raises:
        BadInput: they sample, take several processes, or log to W&B.
    """
    if experiment.rollout:
        raise BadInput(
            "a method that learns from a data set",
            f"{type(experiment.method).__name__} on samples",
            "Members would draw answers, text and number of them their own: train the seeds and "
            "strengths one by one.",
            where="--seeds, --grid",
        )
    if jax.process_count() > 1:
        raise BadInput(
            "a single process",
            str(jax.process_count()),
            "Train models that need several one by one, or give each process members of its own.",
            where="--seeds, --grid",
        )
    if experiment.wandb is not None:
        raise BadInput(
            "no W&B project in a sweep",
            repr(experiment.wandb),
            "Leave wandb out: each member has its metrics.jsonl and its TensorBoard folder.",
            where="wandb",
        )


def check_text(lead: Run, sweep: Sweep) -> None:
    """Refuses a number that the policy is told in words: no difference of training."""
    fitted = dataclasses.replace(lead.experiment, method=lead.method)
    if len({changed(fitted, point).method.ask("?") for point in sweep.points()}) > 1:
        raise BadInput(
            f"numbers that the loss of {type(lead.method).__name__} reads",
            ", ".join(sweep.grid),
            "It changes how the trained policy is asked, and nothing of its training: train once, "
            "and give it to alignax evaluate.",
            where="--grid",
        )


def for_all_at_once(decoder: Decoder) -> Decoder:
    """The decoder with attention that can be computed for all members at once.

    JAX's rule for cuDNN's attention under `vmap` asks for a mask a head, which rows do not have
    (jax 0.10, `_dot_product_attention_fwd_batcher`). So on NVIDIA's GPUs it is XLA's.

    Raises:
        BadInput: cuDNN's was asked for by name.
    """
    if decoder.attention == "cudnn":
        raise BadInput(
            "attention that serves all members at once",
            "cudnn",
            'Leave it at "auto", or train the members one by one.',
            where="model.attention",
        )
    auto = decoder.attention == "auto" and jax.default_backend() == "gpu"
    return dataclasses.replace(decoder, attention="xla") if auto else decoder
