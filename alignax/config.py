"""An experiment: the rooms' own settings side by side, loaded from a Python file and checked.

A config is a Python file with a function `experiment()` that returns an `Experiment`; that of a
comparison (`alignax.compare.settings`) has a function `comparison()`.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal, TypeVar

from alignax.core import contract, mistakes, modules, own_code
from alignax.core.errors import BadInput
from alignax.core.method import Method
from alignax.core.records import Demonstration
from alignax.core.setting_types import check_types, nearest, setting
from alignax.data import columns, convert, in_memory
from alignax.data.bad_rows import OnBadRow
from alignax.data.convert import Pairing
from alignax.data.forms import ScoredTurns
from alignax.data.in_memory import Source
from alignax.data.tokenise import TokenLimits
from alignax.generate.rollout import Rollout
from alignax.generate.sampler import Sampler
from alignax.models.flash import Choice
from alignax.models.lora import LoRA
from alignax.models.stack import Remat
from alignax.train.loop import Loop
from alignax.train.optim import Optim
from alignax.train.sharding import Mesh

Settings = TypeVar("Settings")
LARGEST_SEED = 2**31 - 1  # of larger ones JAX takes the last 32 bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """Which weights a run begins from, and how they compute.

    Fields:
        model_name_or_path: a Hugging Face model directory or hub id. It is the reference too.
        critic_name_or_path: what a critic begins from, such as a reward model; None for the
            policy's own weights with a new head. Read by methods with a value head.
        dtype: of the arithmetic. Parameters and losses stay float32.
        remat: what the backward pass computes again to save memory: whole blocks; what is between
            their products with matrices, attention too where its kernel keeps nothing
            ("elementwise"); the attention weights; or nothing, which is fastest where it fits.
        attention: the kernel for packed rows. "auto" is splash on TPUs, cuDNN's on GPUs where it
            can serve, and XLA's elsewhere. With "xla" tokens that a GPU draws have no kernel
            of their own either.
        scan_layers: whether one layer is compiled for all, or each is written out: faster on a GPU
            (copies of 19 of 217 ms), slower to compile. None: written out on one NVIDIA GPU alone.
    """

    model_name_or_path: str
    critic_name_or_path: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "block"
    attention: Choice = "auto"
    scan_layers: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Where the text comes from and what becomes of it.

    Fields:
        train, eval: a path (.jsonl, .jsonl.gz, .json, .parquet, or a directory with a file, or
            numbered parts, for each split), a pattern of paths, `tfds:NAME`, or `hf:owner/name`.
            No `eval`: nothing is held out. Or rows in memory: a list of dicts, a Dataset of
            `datasets`, a DataFrame, any iterable of mappings. They are written at once, as JSON
            lines, to a file in cache_dir named by their digest, which then is the setting
            (`data.in_memory`): what is kept of a run holds its path.
        train_split, eval_split: of a directory or a data set.
        eval_limit: rows of the held-out data that are used; None for all.
        columns: for names that rows are read by, such as `prompt`, those that train and eval have
            instead: `{"prompt": "instruction", "chosen": "response_a.text"}`, a dotted one for
            what is within a column. Every row has them, and none has a column of a name that
            another is read as. Of evaluation.prompts the names are its own.
        template: "chat" renders by the tokenizer's chat template; "none" takes strings as they
            stand.
        chat_template: replaces the tokenizer's template, and is what a model without one needs: a
            name (`data.templates.NAMED`: plain for a base model, chatml, llama3, llama2, mistral,
            gemma, phi3, zephyr, tulu), the path of a Jinja file, or the template itself. The
            exported model carries it.
        chat_template_kwargs: what the template is told beside the conversation, such as
            `{"enable_thinking": False}`. The config.json of a whole or merged export keeps it,
            where `alignax sample` and `score` read it; another engine must be told it too.
        pairing: how lists are made into pairs, for a method that learns from pairs:
            `data.convert.pairs` explains each way.
        strength: sources of responses from the weakest to the strongest, for pairing="strength".
        scored_turns: which answers of a conversation are imitated, for methods that learn from
            `messages`: "all", or the "last" alone, which is what templates allow that write
            earlier answers otherwise, as Qwen3's leaves their thoughts out.
        limits: how long a group may be.
        on_bad_row: "refuse" stops at a row with a defect; "drop" drops and counts it.
        max_dropped_share: of groups that may be dropped or cut before the run refuses to start;
            bad rows that were dropped count as groups.
        cache_dir: where prepared data and reference log-probabilities are kept.
    """

    train: Source
    eval: Source | None = None
    train_split: str = "train"
    eval_split: str = "test"
    eval_limit: int | None = setting(None, at_least=1)
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    template: Literal["chat", "none"] = "chat"
    chat_template: str | None = None
    chat_template_kwargs: dict[str, bool | int | str] = dataclasses.field(default_factory=dict)
    pairing: Pairing = "best-worst"
    strength: tuple[str, ...] = ()
    scored_turns: ScoredTurns = "all"
    limits: TokenLimits = TokenLimits()
    on_bad_row: OnBadRow = "refuse"
    max_dropped_share: float = setting(0.1, at_least=0, at_most=1)
    cache_dir: str = ".cache/alignax"

    def __post_init__(self) -> None:
        _expand(self, "cache_dir")
        if isinstance(self.cache_dir, str):
            for name in ("train", "eval"):
                rows = getattr(self, name)
                source = in_memory.as_source(rows, self.cache_dir, f"data.{name}")
                object.__setattr__(self, name, source)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is measured before, during and after training.

    Fields:
        batch_size: groups at a time, over all devices.
        sampler: how answers to the held-out prompts are drawn.
        num_prompts: held-out prompts that are answered; 0 for none.
        prompts: a file of the prompts that are answered; None for those of data.eval.
        answers: when they are: before and after ("ends"), or at every evaluation ("always").
        shown: of these, how many are printed, before and after side by side.
    """

    batch_size: int = setting(16, at_least=1)
    sampler: Sampler = Sampler(max_new_tokens=64, temperature=0.7, top_p=0.95)
    num_prompts: int = setting(64, at_least=0)
    prompts: str | None = None
    answers: Literal["ends", "always"] = "ends"
    shown: int = setting(3, at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides a run, and with the seed, every number of it.

    Fields:
        adapter: trained in place of the model's weights, which stay as they are; None to train
            these. A critic is trained whole.
        output_dir: takes checkpoints, metrics, samples and the exported model.
        seed: of the order of the data and of all draws.
        tensorboard, wandb: where metrics go beside metrics.jsonl; `wandb` names a project.
    """

    method: Method
    model: Model
    data: Data
    output_dir: str
    adapter: LoRA | None = None
    optim: Optim = Optim()
    loop: Loop = Loop()
    rollout: Rollout = Rollout()
    mesh: Mesh = Mesh()
    evaluation: Evaluation = Evaluation()
    seed: int = setting(0, at_least=0, at_most=LARGEST_SEED)
    tensorboard: bool = True
    wandb: str | None = None

    def __post_init__(self) -> None:
        _expand(self, "output_dir")

    def reading(self, which: str) -> dict[str, Any]:
        """Where rows are and how they are read: of data's `train` or `eval`, or those `answered`.

        Raises:
            BadInput: there are none.
        """
        data, training, answered = self.data, which == "train", which == "answered"
        source = self.evaluation.prompts if answered else getattr(data, which)
        if source is None:
            raise BadInput("held-out data", "none", "Set data.eval.", where="data.eval")
        return {
            "source": source,
            "split": data.train_split if training else data.eval_split,
            "limit": None if training else data.eval_limit,
            "on_bad_row": data.on_bad_row,
            "max_dropped_share": data.max_dropped_share,
            "columns": {} if answered else data.columns,
        }


def _expand(settings: Any, name: str) -> None:
    """Writes out the home that `~` stands for, once: all who use and record it have one path."""
    value = getattr(settings, name)
    if isinstance(value, str):  # what is none, `check` refuses
        object.__setattr__(settings, name, os.path.expanduser(value))


def load(path: str | Path) -> Experiment:
    """Runs a config file and returns its experiment."""
    return load_as(path, Experiment, example="configs/quickstart.py")


def load_as(path: str | Path, kind: type[Settings], *, example: str) -> Settings:
    """Runs a config file and returns what its function makes.

    Args:
        kind: what that is; the function has its name in small letters.
        example: a file that shows one.
    """
    path, function = Path(path), f"{kind.__name__.lower()}()"
    if not path.is_file():
        raise BadInput("a Python config file", "no such file", _others(path), where=str(path))
    with mistakes.told(path, (Experiment, kind)):
        module = modules.run(path, "alignax_config")
    make = getattr(module, function.removesuffix("()"), None)
    wanted = f"{'an' if kind is Experiment else 'a'} {kind.__name__}"
    if not callable(make):
        raise BadInput(
            f"a function {function} that returns {wanted}",
            "none",
            f"{example} shows one.",
            where=str(path),
        )
    with mistakes.told(path, (Experiment, kind)):
        found = make()
    if not isinstance(found, kind):
        raise BadInput(
            f"{function} to return {wanted}",
            type(found).__name__,
            f"{example} shows one.",
            where=str(path),
        )
    return found


def _others(path: Path) -> str:
    """Which config may have been meant by a path at which there is none."""
    here, ours = Path.cwd(), configs_directory()
    ours = ours.relative_to(here) if ours.is_relative_to(here) else ours
    for folder in (path.parent, ours):
        if near := nearest(path.stem, [other.stem for other in folder.glob("*.py")]):
            return f"Did you mean {folder / near}.py?"
    return (
        f"Those in {ours} are examples; alignax methods lists what --method takes in place of one."
    )


def configs_directory() -> Path:
    """Where the configs are: in an installed package, or beside the package in a checkout."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def check(experiment: Experiment) -> None:
    """Refuses settings that cannot work, before anything is allocated."""
    check_types(experiment)
    contract.check_class(experiment.method)
    own_code.digests(type(experiment.method))  # of its file as it is now, just imported
    experiment.loop.check()
    experiment.rollout.check(experiment.method)
    experiment.evaluation.sampler.check("evaluation.sampler")
    if experiment.adapter is not None:
        experiment.adapter.check()
    columns.check(experiment.data.columns)
    convert.check(experiment.data.pairing, experiment.data.strength)
    record = experiment.method.needs().record
    if experiment.data.scored_turns != "all" and record is not Demonstration:
        raise BadInput(
            'data.scored_turns="all" for a method that imitates no conversations',
            repr(experiment.data.scored_turns),
            "Leave it out. Of conversations that are judged the last answer alone is learnt from.",
            where="data.scored_turns",
        )
    for name, value in experiment.data.chat_template_kwargs.items():
        if isinstance(value, str) and value.lower() in ("true", "false"):
            raise BadInput(
                f"{value.title()}, without quotes",
                repr(value),
                "To a template any text is true.",
                where=f"data.chat_template_kwargs: {name}",
            )
    for name, value in (("output_dir", experiment.output_dir),
                        ("data.cache_dir", experiment.data.cache_dir)):  # fmt: skip
        if not value.strip():
            raise BadInput(
                "a folder",
                repr(value),
                "Name one: everything would be written beside what else is here.",
                where=name,
            )
        if "://" in value:
            raise BadInput(
                "a folder",
                repr(value),
                "Logs, samples and data are files of the operating system: mount the bucket, as "
                "docs/pods.md says, and give a path in it.",
                where=name,
            )
