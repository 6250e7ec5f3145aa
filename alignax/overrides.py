"""Changing the settings of an experiment from the command line, by their dotted names."""

import dataclasses
import logging
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import tyro

from alignax.config import Experiment
from alignax.core.errors import BadInput
from alignax.core.setting_types import alike, check_types, classes_of, did_you_mean, is_settings
from alignax.data import columns
from alignax.models import peft
from alignax.models.lora import LoRA
from alignax.told_types import registry

log = logging.getLogger("alignax")

# What has another name in TRL, transformers or PEFT: the settings that it may be, of which the
# first that there is counts; or what to write in its place.
ELSEWHERE: Mapping[str, tuple[str, ...] | str] = {
    "per_device_train_batch_size": "Write --loop.batch-size N: the whole batch, over all devices "
    "and micro-batches.",
    "per_device_eval_batch_size": ("evaluation.batch_size",),
    "gradient_checkpointing": "Write --model.remat block; with none everything is kept.",
    "bf16": "Write --model.dtype bfloat16.",
    "fp16": "Write --model.dtype bfloat16.",
    "dtype": ("model.dtype",),
    "torch_dtype": ("model.dtype",),
    "attn_implementation": ("model.attention",),
    "load_in_4bit": "Write --adapter.base nf4.",
    "load_in_8bit": "Write --adapter.base int8.",
    "use_peft": "Write --adapter.rank 16: any setting of adapter makes one.",
    "r": ("adapter.rank",),
    "lora_r": ("adapter.rank",),
    "lora_alpha": ("adapter.alpha",),
    "lora_dropout": ("adapter.dropout",),
    "target_modules": ("adapter.targets",),
    "lora_target_modules": ("adapter.targets",),
    "use_rslora": ("adapter.rslora",),
    "use_dora": ("adapter.dora",),
    "loss_type": "Losses are methods of their own, such as --method ipo: alignax methods lists "
    "them.",
    "rpo_alpha": ("method.nll_weight",),
    "epsilon": ("method.clip", "method.clip_low"),
    "scale_rewards": ("method.scale",),
    "num_generations": ("method.num_samples", "rollout.num_samples"),
    "num_iterations": ("method.epochs", "rollout.epochs"),
    "steps_per_generation": ("method.refresh", "rollout.refresh"),
    "max_completion_length": "Write --rollout.max-new-tokens N where responses are sampled, and "
    "--data.limits.max-completion-length N where they are given.",
    "mask_truncated_completions": "Write --rollout.truncated mask.",
    "missing_eos_penalty": ("rollout.missing_end",),
    "reward_funcs": "A config sets rollout=Rollout(rewards=Rewards(parts=(Function(function=...),"
    "))).",
    "use_vllm": "A config sets rollout.server: server=Server(url=..., model=...).",
    "dataset_name": ("data.train",),
    "dataset_train_split": ("data.train_split",),
    "dataset_test_split": ("data.eval_split",),
    "lr": ("optim.learning_rate",),
    "adam_epsilon": ("optim.adam_eps",),
    "eval_strategy": ("loop.eval_steps",),
    "save_strategy": ("loop.save_steps",),
    "save_total_limit": ("loop.keep",),
    "report_to": "Write --wandb PROJECT; TensorBoard is on unless --no-tensorboard is given.",
    "resume_from_checkpoint": "Give the same command again: a run goes on from its last "
    "checkpoint.",
}


def override(
    experiment: Experiment, arguments: Sequence[str], *, command: str = "alignax train CONFIG"
) -> Experiment:
    """Changes settings by dotted names, such as `--method.beta 0.2 --loop.max-steps 50`.

    A group of settings that there may be none of, such as the adapter, is left out by
    `--adapter None`. `loop.num_train_epochs` takes the place of the config's `loop.max_steps`.

    Args:
        command: whose `--help` lists them, for the messages.

    Raises:
        BadInput: a name that is not known, with the nearest ones; a value of the wrong type, also
            in the experiment itself.
    """
    if not arguments:
        return experiment
    check_types(experiment)  # tyro would put a default in the place of what it cannot read
    # Of a dict that has something tyro knows the keys of that alone.
    named, arguments = columns.given(arguments, experiment.data.columns)
    experiment = _with_columns(experiment, {})
    experiment, arguments = _left_out(experiment, arguments)
    experiment = _begun(experiment, arguments)
    for name in _names_given(arguments):
        _check_name(experiment, name, command)
    experiment, arguments = _for_epochs(experiment, arguments), _with_booleans(arguments)
    try:
        made = tyro.cli(
            type(experiment),
            args=list(arguments),
            default=experiment,
            prog=command,
            config=(tyro.conf.AvoidSubcommands,),
            registry=registry(),
        )
    except SystemExit as stop:
        if stop.code in (0, None):  # --help
            raise
        raise BadInput(
            "values of the settings' own types",
            " ".join(arguments),
            "The message above names the setting.",
            where="command line",
        ) from None
    return _with_columns(made, named)


def _with_columns(experiment: Experiment, named: dict[str, str]) -> Experiment:
    data = dataclasses.replace(experiment.data, columns=named)
    return dataclasses.replace(experiment, data=data)


def _left_out(experiment: Experiment, arguments: Sequence[str]) -> tuple[Experiment, Sequence[str]]:
    """Without the groups of settings that are given as None, and the arguments that are left.

    tyro would choose between a dataclass and None by a subcommand, which takes all that follows.
    """
    kept, words = [], list(arguments)
    while words:
        word, *words = words
        name, joined, value = word.partition("=")
        path = name.removeprefix("--").replace("-", "_").split(".")
        if (value if joined else "".join(words[:1])) != "None" or not _is_group(experiment, path):
            kept.append(word)
            continue
        group = ".".join(path)
        if beside := [x for x in _names_given(arguments) if x.startswith(group + ".")]:
            raise BadInput(
                f"--{group} None, or settings of it",
                f"both: --{beside[0]} too",
                "Leave one out.",
                where="command line",
            )
        experiment = _with_none(experiment, path)
        words = words if joined else words[1:]
    return experiment, kept


def _is_group(inside: Any, path: Sequence[str]) -> bool:
    """Whether this names a dataclass that may be None."""
    *outer, last = path
    for part in outer:
        inside = getattr(inside, part, None)
    kinds = classes_of(typing.get_type_hints(type(inside)).get(last)) if is_settings(inside) else ()
    return type(None) in kinds and any(map(dataclasses.is_dataclass, kinds))


def _with_none(inside: Any, path: Sequence[str]) -> Any:
    part, *rest = path
    value = _with_none(getattr(inside, part), rest) if rest else None
    return dataclasses.replace(inside, **{part: value})


def _names_given(arguments: Sequence[str]) -> list[str]:
    """The dotted names, written as in a config."""
    given = [word for word in arguments if word.startswith("--")]
    return [word[2:].partition("=")[0].replace("-", "_") for word in given]


def _begun(experiment: Experiment, arguments: Sequence[str]) -> Experiment:
    """With an adapter, where there is none and settings of one are given.

    Of the default settings, or where a folder to begin with is given of those of the adapter there.
    """
    if experiment.adapter is not None:
        return experiment
    if not any(name.startswith("adapter.") for name in _names_given(arguments)):
        return experiment
    adapter = LoRA()
    for word, following in zip(arguments, [*arguments, ""][1:], strict=True):
        name, joined, value = word.partition("=")
        value = value if joined else following
        if _names_given([name]) == ["adapter.adapter_name_or_path"] and value != "None":
            adapter = dataclasses.replace(peft.read_settings(value), dropout=0.0)  # as without one
    return dataclasses.replace(experiment, adapter=adapter)


def _for_epochs(experiment: Experiment, arguments: Sequence[str]) -> Experiment:
    """Without the config's number of updates, where passes over the data are given alone."""
    given, steps = _names_given(arguments), experiment.loop.max_steps
    if steps is None or "loop.num_train_epochs" not in given or "loop.max_steps" in given:
        return experiment
    log.warning(
        "loop.num_train_epochs takes the place of loop.max_steps, of which the config has %d", steps
    )
    loop = dataclasses.replace(experiment.loop, max_steps=None)
    return dataclasses.replace(experiment, loop=loop)


def _with_booleans(arguments: Sequence[str]) -> list[str]:
    """With true and false as Python has them among a template's variables.

    Otherwise they would be text, and any text is true to a template.
    """
    found, within = [], False
    for word in arguments:
        if word.startswith("--"):
            within = _names_given([word]) == ["data.chat_template_kwargs"]
        found.append(word.title() if within and word.lower() in ("true", "false") else word)
    return found


def _check_name(experiment: Experiment, name: str, command: str) -> None:
    if name in ("help", "h"):
        return
    inside: Any = experiment
    words = name.removeprefix("no_").split(".")
    done: list[str] = []
    for i, part in enumerate(words):
        known = _known(inside)
        known_parts = {*known, *(f"no_{k}" for k in known)}
        if part not in known_parts:
            parent = type(inside).__name__
            hint = _translated(experiment, words[-1]) or did_you_mean(
                _meant(experiment, done, words[i:], known)
            )
            raise BadInput(
                f"a setting; {parent} has {', '.join(known)}" if known else "a setting's name",
                ".".join([*done, part]),
                hint or _how_to_begin(experiment, done) or f"{command} --help lists them all.",
                where="command line",
            )
        done.append(part)
        if isinstance(inside, tuple):
            inside = inside[int(part)]
        else:
            inside = getattr(inside, part.removeprefix("no_") if part not in known else part)
    if is_settings(inside):
        raise BadInput(
            f"a setting of {name}: {', '.join(_known(inside))}",
            f"--{name.replace('_', '-')} alone",
            f"Write --{name.replace('_', '-')}.SETTING VALUE.",
            where="command line",
        )


def _meant(
    experiment: Experiment, done: Sequence[str], rest: Sequence[str], known: Sequence[str]
) -> list[str]:
    """The settings that may have been meant by a name of which `done` is right.

    First those of the section with all its words in their names, then what has this name in
    another section, then what is spelt like it.
    """
    section, everywhere = "".join(f"{part}." for part in done), names(experiment)
    words = set(rest[-1].split("_"))
    within = [n for n in everywhere if n.startswith(section)
              and words <= set(n.rpartition(".")[2].split("_"))]  # fmt: skip
    if within and len(rest) == 1:
        return sorted(within, key=lambda n: n.rpartition(".")[2] != rest[0])
    elsewhere = [n for n in everywhere if n.endswith("." + ".".join(rest))]
    return elsewhere or [section + near for near in alike(rest[0], known)]


def _translated(experiment: Experiment, name: str) -> str:
    """What has this name in other libraries; empty where nothing is known to have."""
    meant = ELSEWHERE.get(name, ())
    if isinstance(meant, str):
        return meant
    there = set(names(experiment))
    return did_you_mean([x for x in meant if x in there or x.startswith("adapter.")][:1])


def _how_to_begin(experiment: Experiment, path: Sequence[str]) -> str:
    """How a config gives a group of settings of which there is none; empty for anything else."""
    if not path or not _is_group(experiment, path):
        return ""
    inside: Any = experiment
    for part in path[:-1]:
        inside = getattr(inside, part)
    if getattr(inside, path[-1]) is not None:
        return ""
    hint = typing.get_type_hints(type(inside))[path[-1]]
    kind = next(x for x in classes_of(hint) if dataclasses.is_dataclass(x))
    needed = [f"{x.name}=..." for x in dataclasses.fields(kind) if x.default is dataclasses.MISSING]
    return f"A config sets {'.'.join(path)}: {path[-1]}={kind.__name__}({', '.join(needed)})."


def _known(inside: Any) -> list[str]:
    """The names in a dotted name that may come next: fields, or numbers from 0 of a tuple."""
    if is_settings(inside):
        return [field.name for field in dataclasses.fields(inside)]
    if isinstance(inside, tuple) and all(map(is_settings, inside)):
        return [str(i) for i in range(len(inside))]
    return []


def names(settings: Any, prefix: str = "") -> list[str]:
    """The dotted names of all settings."""
    found = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if is_settings(value):
            found += names(value, f"{prefix}{field.name}.")
        else:
            found.append(prefix + field.name)
    return found
