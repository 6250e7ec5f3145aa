"""The options of each command, beside a config's settings, and what `--help` says of them."""

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

from alignax.core.errors import BadInput

PROFILED = 3  # updates that `train --profile` traces

Options = dict[str, dict[str, Any]]  # by name: what `add_argument` is told


class Command(NamedTuple):
    """What a command takes.

    Fields:
        first: the word after it.
        example: what may follow it, as it would be typed.
        options: its own.
        settings: whether those of a config may follow, by their dotted names.
    """

    first: str
    example: str
    options: Options
    settings: bool = False


def _text(what: str, metavar: str = "FILE", **more: Any) -> dict[str, Any]:
    default = more.get("default")
    return {"help": f"{what} (default {default})" if default else what, "metavar": metavar, **more}


def _number(what: str, metavar: str = "N", **more: Any) -> dict[str, Any]:
    default = more.get("default")
    what = what if default is None else f"{what} (default {default})"
    return {"help": what, "metavar": metavar, "type": int, **more}


RENDERING: Options = {
    "--template": _text("none takes texts as they stand; the config's, or chat", "chat|none",
                        choices=("chat", "none")),
    "--chat-template": _text("in place of the tokenizer's: a name, such as plain or chatml, "
                             "or a Jinja file", "NAME"),
}  # fmt: skip
SPLIT: Options = {
    "--split": _text("of --data, where that is a directory or data set", "NAME", default="train"),
}
BAD_ROWS: Options = {
    "--on-bad-row": _text("of --data: stop at a row with a defect, or leave it out and count "
                          "it; the config's, or refuse", "refuse|drop", choices=("refuse", "drop")),
}  # fmt: skip
# What stands in place of CONFIG; `sample` has a --data of its own.
METHODS_OWN: Options = {
    "--method": _text(
        "in place of CONFIG: the default config of this method, or FILE.py:CLASS, your own", "NAME"
    ),
    "--data": _text("with --method: what is learnt from"),
    "--eval-data": _text("with --method: what is held out"),
    "--model": _text("with --method: the weights to begin from", "DIRECTORY"),
}  # fmt: skip
# What a config calls these.
BESIDE_CONFIG = {
    "--data": "--data.train",
    "--eval-data": "--data.eval",
    "--model": "--model.model-name-or-path",
}
DISTRIBUTED: Options = {
    "--distributed": {"help": "one run over all hosts that this is started on",
                      "action": "store_true"},
}  # fmt: skip

COMMANDS = {
    "methods": Command("[NAME]", "dpo", {}),
    "train": Command("CONFIG", "configs/quickstart.py --method.beta 0.2 --output-dir runs/mine", {
        "--profile": _number(f"trace so many updates; {PROFILED} where no number is given", "STEPS",
                             nargs="?", const=PROFILED),
        "--seeds": _number("so many runs side by side, each with a seed of its own"),
        "--grid": _text("runs side by side, one for each value; several grids are multiplied",
                        "SETTING=A,B", nargs="+", action="extend"),
    }, settings=True),
    "rerun": Command("OUTPUT_DIR", "runs/quickstart", {}),
    "plan": Command("CONFIG", "configs/plans/llama3_8b.py --topology v5e:8x8", {
        "--topology": _text("devices to compile for: v5p:4x4x8, h100:8, cpu:8", "NAME", default=""),
        "--prompt": _number("tokens of every prompt (default half of data.limits.max_length, or "
                            "what the response leaves of it, where that is less)"),
        "--response": _number("tokens of every response (default rollout.max_new_tokens where it "
                              "is sampled, else half of data.limits.max_length)"),
        "--responses": _number("to a prompt (default 2 of pairs and labelled answers, 4 of ranked "
                               "lists, what a method that samples keeps, else 1)"),
    }, settings=True),
    "prepare": Command("CONFIG", "configs/quickstart.py", {}, settings=True),
    "show": Command("CONFIG|MODEL", "configs/quickstart.py --index 3", {
        "--index": _number("of a config's example, counted from 0", default=0),
        "--split": _text("of a config's data", "train|eval", default="train",
                         choices=("train", "eval")),
        "--chat-template": _text("for a model that has none", "NAME"),
    }, settings=True),
    "sample": Command("CONFIG|MODEL", "runs/quickstart/export --prompt 'What is rain?'", {
        "--prompt": _text("what to answer; again for more", "TEXT", action="append"),
        "--data": _text("in its place: a file of prompts"),
        "--to": _text("with --data: where answers are written; a new file"),
        **SPLIT,
        **BAD_ROWS,
        **RENDERING,
        "--server": _text("an engine that answers in place of the model", "URL"),
        "--served": _text("of the model there (default the directory's)", "NAME"),
        "--num-samples": _number("answers to a prompt", default=1),
        "--max-new-tokens": _number("where an answer is cut", default=128),
        "--temperature": _number("0 takes the likeliest token", "X", type=float, default=0.7),
        "--top-p": _number("keep the likeliest tokens of this probability together", "X",
                           type=float, default=0.95),
        "--top-k": _number("keep this many tokens; 0 keeps all", default=0),
        "--min-p": _number("keep tokens of this share of the likeliest one's probability", "X",
                           type=float, default=0.0),
        "--seed": _number("of the draws", default=0),
    }, settings=True),
    "evaluate": Command("CONFIG", "configs/quickstart.py", {}, settings=True),
    "export": Command("CONFIG", "configs/quickstart.py --to exported", {
        "--to": _text("to write (default, in the run's output_dir, export, or export-N with "
                      "--step N)", "DIRECTORY"),
        "--step": _number("whose checkpoint is written (default the newest)"),
    }, settings=True),
    "score": Command("MODEL|FILE.py:FUNCTION", "rule.py:reward --data rows.jsonl --to out.jsonl", {
        "--data": _text("the rows to score", required=True),
        "--to": _text("where they are written with their scores; a new file", required=True),
        **SPLIT,
        **BAD_ROWS,
        "--batch-size": _number("rows of tokens at a time", default=16),
        "--max-length": _number("tokens of prompt and response; longer rows are left out "
                                "(default the model's)"),
        **RENDERING,
        "--whole-numbers": {"help": "round, as SteerLM's attributes are, within the ratings "
                                    "that the model was taught", "action": "store_true"},
    }),
    "compare": Command("COMPARISON", "configs/compare_tiny.py --only dpo grpo --seeds 4", {
        "--output": _text("for results and page (default runs/ and the config's name)",
                          "DIRECTORY"),
        "--add": _text("an entry of your own, or FILE.py:ENTRY; again for more", "MODULE:ENTRY",
                       action="append", default=[]),
        "--only": _text("these entries, and the one that sets the compute budget", "ENTRY",
                        nargs="*", default=[]),
        "--claim": _text("this claim, and the entries it is about; again for more", "NAME",
                         action="append", default=[]),
        "--seeds": _number("in place of the comparison's"),
        "--workers": _number("runs at a time, a process each (default the comparison's)"),
    }),
    "report": Command("OUTPUT_DIR", "runs/compare_tiny", {
        "--output": _text("for findings, tables and page (default OUTPUT_DIR)", "DIRECTORY"),
    }),
}  # fmt: skip


def parser(command: str, *only: str) -> argparse.ArgumentParser:
    """Reads the options of a command, or some of them; words it does not know are settings."""
    first, example, options, _ = COMMANDS[command]
    made = argparse.ArgumentParser(
        prog=f"alignax {command} {first}",
        description=f"For example: alignax {command} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # an example has one line
        add_help=False,
        allow_abbrev=False,
    )
    for name in only or options:
        made.add_argument(name, **options[name])
    return made


def refuse_unread(
    arguments: Sequence[str], names: Sequence[str], *, beside: str, remedy: str
) -> None:
    """Refuses options that the command would pass over in silence.

    Args:
        names: of the options; one that ends with a point stands for all settings within.
        beside: what the command was given that makes it so.
    """
    given = [word.partition("=")[0].replace("_", "-") for word in arguments if word[:2] == "--"]
    unread = [word for word in given if word in names or word.rpartition(".")[0] + "." in names]
    if unread:
        raise BadInput(f"no {unread[0]} beside {beside}", " ".join(unread), remedy,
                       where="command line")  # fmt: skip


def refuse_methods_own(command: str, path: str, arguments: Sequence[str]) -> None:
    """Refuses, beside a config, what goes with --method alone.

    Args:
        path: of the config.
        arguments: without the command's own options.
    """
    for word, following in zip(arguments, [*arguments, ""][1:], strict=True):
        name, joined, value = word.partition("=")
        if name not in BESIDE_CONFIG:
            continue
        value = value if joined else following if not following.startswith("--") else ""
        raise BadInput(
            f"no {name} beside a config",
            f"{word} with {path}",
            f"Write {BESIDE_CONFIG[name]} {value or 'VALUE'}; or alignax {command} --method NAME "
            f"{name} {value or 'VALUE'}.",
            where="command line",
        )


def refuse_sweep(command: str, arguments: Sequence[str]) -> None:
    """Refuses, beside any command but train, the options that make many runs of one.

    Args:
        arguments: without the command's own options.
    """
    given = [word for word in arguments if word.partition("=")[0] in ("--seeds", "--grid")]
    if given and command != "train":
        raise BadInput(
            f"{command} of one run",
            given[0],
            "It goes with train alone. Name the folder of one member, such as --output-dir "
            "OUTPUT_DIR/seed=1, and its settings; its model is in OUTPUT_DIR/seed=1/export.",
            where="command line",
        )


def explained(command: str, *, beside_config: bool = False) -> str:
    """What `alignax COMMAND --help` says.

    Args:
        beside_config: without the options that stand in place of one.
    """
    made, (_, _, options, settings) = parser(command), COMMANDS[command]
    shared = (METHODS_OWN if settings and not beside_config else {}) | (
        DISTRIBUTED if settings else {}
    )
    for name in (name for name in shared if name not in options):
        made.add_argument(name, **shared[name])
    return made.format_help()
