"""Whether a user's own method keeps to what `Method` says: looked at once, before any work.

Classes are looked at as they are; functions are traced on shapes alone, so nothing is computed.
"""

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from alignax.core.errors import BadInput
from alignax.core.method import Method
from alignax.core.records import Group
from alignax.core.rollouts import DIFFERENCE, FROM_REFERENCE
from alignax.core.types import Batch, Outputs

# What an update says of itself beside a method's metrics.
TAKEN = ("loss", "grad_norm", "num_prompts", "num_tokens", "skipped", DIFFERENCE, FROM_REFERENCE)
SEES = "docs/own_method.md says what a method sees, and shows one."


def check_class(method: Method) -> None:
    """Refuses a method that is no value: programs and what is on disk are kept by methods.

    Raises:
        BadInput: it is not a frozen dataclass, or has a field that cannot be a key.
    """
    kind = type(method)
    made = getattr(kind, "__dataclass_params__", None)
    said = inspect.get_annotations(kind).values()  # its own; a ClassVar is no field
    fields = [x for x in said if "ClassVar" not in str(x)]
    without = bool(fields) and "__dataclass_fields__" not in vars(kind)
    if made is None or not made.frozen or without:
        got = "a dataclass that is not frozen" if made and not made.frozen else "a plain class"
        raise BadInput(
            f"{kind.__name__} to be a frozen dataclass",
            got + (", whose fields would be no settings" if without else ""),
            "Write @dataclasses.dataclass(frozen=True, kw_only=True) above it.",
            where=kind.__name__,
        )
    given = {
        x.name for x in dataclasses.fields(method)  # type: ignore[arg-type]
        if x.init or getattr(method, x.name, None) == x.default
    }  # fmt: skip
    held = {x for x in getattr(method, "__dict__", ()) if not _is_cached(kind, x)}
    held |= {x.name for x in dataclasses.fields(method)}  # type: ignore[arg-type]
    if more := sorted(held - given):
        raise BadInput(
            f"{kind.__name__} to hold what it is given, and nothing that follows from it",
            ", ".join(more),
            "Work it out where it is used, in a function or a property: in a sweep the numbers "
            "that it follows from are others.",
            where=kind.__name__,
        )
    for field in dataclasses.fields(method):  # type: ignore[arg-type]
        try:
            hash(getattr(method, field.name))
        except TypeError as error:
            raise BadInput(
                "settings of a method that can be keys, such as numbers, texts and tuples",
                str(error),
                "Give a tuple in place of a list, and a frozen dataclass in place of a dict.",
                where=f"{kind.__name__}.{field.name}",
            ) from error


def _is_cached(kind: type, name: str) -> bool:
    return isinstance(inspect.getattr_static(kind, name, None), functools.cached_property)


def check_group(method: Method, group: Any) -> None:
    """Refuses what `Method.group` must not give.

    Raises:
        BadInput: something else than a group, or one with a number of scores of its own.
    """
    where = f"{type(method).__name__}.group"
    if not isinstance(group, Group):
        raise BadInput("a Group", f"{group!r} ({type(group).__name__})", SEES, where=where)
    if len(group.scores) != len(group.responses):
        raise BadInput(
            f"a score for each response, {len(group.responses)}",
            str(len(group.scores)),
            "Scores are numbers that the loss reads in batch.scores, whatever they mean to it.",
            where=where,
        )


def check(
    method: Method, *, responses: int, attributes: int = 0, sampled: bool = False, length: int
) -> None:
    """Refuses numbers of another shape than one a prompt, of `loss` and `means`.

    Args:
        method: with what `fit` has set.
        responses: to a prompt; as they are drawn, where it samples.
        attributes: numbers of each response beside its score.
        sampled: whether the method chooses by `select` from what was drawn.
        length: tokens of prompts, and of responses.

    Raises:
        BadInput: naming the function, what it should give, and what it gives.
    """
    name = type(method).__name__
    # Axes of unequal length, so that one is not taken for another.
    prompts = next(n for n in range(8, 99) if n not in (responses, attributes, length))
    batch = _batch(method, prompts, responses, attributes, sampled, length)
    if sampled:
        batch = _traced(method.select, f"{name}.select", jax.random.key(0), batch)
        if not isinstance(batch, Batch) or batch.mask.shape[:2] != batch.valid.shape:
            raise BadInput(
                "a Batch whose arrays have the same prompts and responses",
                type(batch).__name__
                if not isinstance(batch, Batch)
                else f"mask {list(batch.mask.shape)}, valid {list(batch.valid.shape)}",
                "alignax.core.selection has functions that pick and pair. " + SEES,
                where=f"{name}.select",
            )
    outputs = _outputs(method, batch)
    found = _traced(method.loss, f"{name}.loss", outputs, batch)
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Mapping)):
        raise BadInput(
            "a pair: one loss a prompt, and metrics by name",
            type(found).__name__ if not hasattr(found, "shape") else "the loss alone",
            "Write return loss, {}.",
            where=f"{name}.loss",
        )
    (loss, metrics), count = found, batch.valid.shape[0]
    _check_shape(loss, count, "one loss a prompt", f"{name}.loss")
    for metric, value in metrics.items():
        if metric in TAKEN:
            raise BadInput(
                f"metrics under other names than the update's own: {', '.join(TAKEN)}",
                metric,
                "Rename it.",
                where=f"{name}.loss",
            )
        _check_shape(value, count, f"for the metric {metric} one number a prompt", f"{name}.loss")
    for mean, value in _traced(method.means, f"{name}.means", outputs, batch).items():
        _check_shape(value, count, f"for {mean} one number a prompt", f"{name}.means")


def _check_shape(value: Any, count: int, wanted: str, where: str) -> None:
    if tuple(value.shape) != (count,):
        raise BadInput(
            f"{wanted}, [{count}]",
            str(list(value.shape)),
            "Leave axis 0, that of prompts, as it is: the update takes the mean, over all devices "
            "and micro-batches.",
            where=where,
        )


def _traced(function: Any, name: str, *arguments: Any) -> Any:
    """What a function gives, as shapes; what it raises is raised, with a word on the arrays."""
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:
        error.add_note(f"{name} was called on shapes alone, before the run begins. {SEES}")
        raise


def _shape(axes: tuple[int, ...], kind: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(axes, kind)


def _batch(method: Method, b: int, k: int, attributes: int, sampled: bool, length: int) -> Batch:
    needs, tokens = method.needs(), (b, k, length)
    made: dict[str, Any] = {
        "prompts": _shape((b, length), jnp.int32),
        "prompt_lengths": _shape((b,), jnp.int32),
        "responses": _shape(tokens, jnp.int32),
        "mask": _shape(tokens, jnp.bool_),
        "scores": _shape((b, k)),
        "valid": _shape((b, k), jnp.bool_),
        "ref_logprobs": _shape(tokens) if needs.reference else None,
        "old_logprobs": _shape(tokens) if sampled else None,
        "old_values": _shape(tokens) if needs.head == "value" else None,
        "attributes": _shape((b, k, attributes)) if attributes else None,
    }
    return Batch(**made)


def _outputs(method: Method, batch: Batch) -> Outputs:
    needs, tokens = method.needs(), batch.mask.shape
    reward = needs.head == "reward"
    made: dict[str, Any] = {
        "logprobs": _shape(tokens),
        "entropy": _shape(tokens) if "entropy" in needs.outputs else None,
        "values": _shape(tokens) if needs.head == "value" else None,
        "rewards": _shape(tokens[:2]) if reward else None,
        "attributes": _shape((*tokens[:2], len(needs.score_names))) if reward else None,
    }
    return Outputs(**made)
