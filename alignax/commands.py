"""The commands of the command line: each reads its own options and puts a room to work.

Imports stand in the functions: a command waits for nothing that it does not use.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

PROFILED = 3  # updates that `train --profile` traces


def _experiment(path: str, overrides: Sequence[str]):
    """The experiment of a config; without one, of the method that the overrides name."""
    from alignax import catalogue, config
    from alignax.overrides import override

    if path:
        return override(config.load(path), overrides)
    return override(*catalogue.experiment(overrides))


def _train(path: str, arguments: list[str]) -> None:
    from alignax import jobs
    from alignax.train import compilations

    parser = argparse.ArgumentParser(prog="alignax train", add_help=False, allow_abbrev=False)
    parser.add_argument("--profile", nargs="?", type=int, const=PROFILED)
    tracing, arguments = parser.parse_known_args(arguments)  # a trace is no part of the run
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--grid", nargs="+", action="extend")
    options, overrides = parser.parse_known_args(arguments)
    words = [*([path] if path else []), *arguments]
    experiment = _experiment(path, overrides)
    if tracing.profile is not None:
        compilations.keep_apart_by_names()
    if options.seeds is None and options.grid is None:
        jobs.train(experiment, command=words, profile=tracing.profile)
        return
    if tracing.profile is not None:
        from alignax.core.errors import BadInput

        raise BadInput(
            "--profile for one run",
            "--seeds or --grid beside it",
            "Profile one of them; all run the same program.",
            where="--profile",
        )
    from alignax import members, sweep

    grid = members.parsed(options.grid or ())
    seeds = 1 if options.seeds is None else options.seeds
    sweep.train(experiment, members.Sweep(seeds=seeds, grid=grid), command=words)


def _rerun(path: str, arguments: list[str]) -> None:
    from pathlib import Path

    from alignax import rerun
    from alignax.run import console

    parser = argparse.ArgumentParser(prog="alignax rerun", allow_abbrev=False)
    parser.parse_args(arguments)
    first, *rest = rerun.command(Path(path))
    words = ("", [first, *rest]) if first.startswith("-") else (first, rest)
    found = rerun.rerun(_experiment(*words), Path(path))
    console.print(rerun.describe(found))
    if not found.same:
        sys.exit(1)


def _plan(path: str, arguments: list[str]) -> None:
    from alignax import forecast, planning, topology
    from alignax.run import console

    parser = argparse.ArgumentParser(prog="alignax plan", add_help=False, allow_abbrev=False)
    parser.add_argument("--topology", default="")
    for name in ("--prompt", "--response", "--responses"):
        parser.add_argument(name, type=int)
    options, overrides = parser.parse_known_args(arguments)
    topology.prepare(options.topology)
    experiment = _experiment(path, overrides)
    sizes = (options.prompt, options.response, options.responses)
    found = planning.nearest_that_fits(
        experiment,
        topology.topology(options.topology),
        forecast.boxes_of(experiment, *sizes),
    )
    console.print(*planning.described(*found), sep="\n")
    if not found[0].fits:
        sys.exit(1)


def _prepare(path: str, arguments: list[str]) -> None:
    from alignax import config, run

    experiment = _experiment(path, arguments)
    config.check(experiment)
    work = run.Run(experiment)
    work.preflight()
    if not experiment.rollout:  # what is not drawn yet has no lengths to lay out
        work.describe_plan()


def _show_model(name: str, arguments: list[str]) -> None:
    from pathlib import Path

    from alignax import show
    from alignax.core.errors import BadInput
    from alignax.run import console

    if not Path(name).exists() and Path(f"{name}.py").is_file():
        raise BadInput(
            "a config file, a model directory or a hub id",
            name,
            f"Did you mean {name}.py?",
            where="command line",
        )
    parser = argparse.ArgumentParser(prog="alignax show", allow_abbrev=False)
    parser.add_argument("--chat-template")
    options = parser.parse_args(arguments)
    show.model(name, console, chat_template=options.chat_template)


def _show(path: str, arguments: list[str]) -> None:
    if path and not path.endswith(".py"):
        _show_model(path, arguments)
        return
    from alignax import run
    from alignax.core.errors import BadInput
    from alignax.data.preflight import show

    parser = argparse.ArgumentParser(prog="alignax show", add_help=False)
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--split", choices=("train", "eval"), default="train")
    options, overrides = parser.parse_known_args(arguments)
    work = run.Run(_experiment(path, overrides))
    sampled = bool(work.experiment.rollout)
    data = work.prompts(options.split) if sampled else work.prepared(options.split)
    if not 0 <= options.index < len(data):
        raise BadInput(
            f"an index from 0 to {len(data) - 1}",
            str(options.index),
            "Examples are counted from 0.",
            where="--index",
        )
    work.say(show(data[options.index], work.renderer))


def _sample(path: str, arguments: list[str]) -> None:
    from pathlib import Path

    from alignax import sample
    from alignax.core.errors import BadInput
    from alignax.generate.server import Server

    parser = argparse.ArgumentParser(prog="alignax sample", add_help=False)
    parser.add_argument("--prompt", action="append")
    parser.add_argument("--data")
    parser.add_argument("--to")
    parser.add_argument("--split", default="train")
    parser.add_argument("--template", choices=("chat", "none"))
    parser.add_argument("--chat-template")
    parser.add_argument("--server")
    parser.add_argument("--served")
    parser.add_argument("--num-samples", type=int, default=1)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--min-p", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    options, overrides = parser.parse_known_args(arguments)
    directory = path
    rendering: dict[str, Any] = {
        "template": options.template or "chat",
        "chat_template": options.chat_template,
    }
    if not path or Path(path).suffix == ".py":
        from alignax.run import Run

        experiment = _experiment(path, overrides)
        exported = Path(experiment.output_dir) / "export"
        directory = str(exported if exported.is_dir() else experiment.model.model_name_or_path)
        rendering = {
            "template": options.template or experiment.data.template,
            "chat_template": options.chat_template or experiment.data.chat_template,
            "chat_template_kwargs": experiment.data.chat_template_kwargs,
            "ask": Run(experiment).method.ask,
        }
    elif overrides:
        raise BadInput(
            "options of sample beside a model directory",
            " ".join(overrides),
            "They are --prompt, or --data and --to (with --split); --server, --served; --template, "
            "--chat-template; "
            "--num-samples, --max-new-tokens, --temperature, --top-p, --top-k, --min-p, --seed. "
            "Settings go with a config file.",
            where="command line",
        )
    names = ("num_samples", "max_new_tokens", "temperature", "top_p", "top_k", "min_p", "seed")
    settings = {name: getattr(options, name) for name in names}
    if options.server:
        settings["server"] = Server(url=options.server, model=options.served or directory)
    if options.prompt:
        sample.answer(directory, options.prompt, **rendering, **settings)
        return
    if not options.data or not options.to:
        raise BadInput(
            "--prompt TEXT, or --data FILE and --to FILE",
            " ".join(arguments) or "neither",
            "Say what is to be answered.",
            where="command line",
        )
    sample.sample(directory, options.data, options.to, split=options.split, **rendering, **settings)


def _evaluate(path: str, arguments: list[str]) -> None:
    from alignax import jobs

    jobs.evaluate(_experiment(path, arguments))


def _export(path: str, arguments: list[str]) -> None:
    from pathlib import Path

    from alignax import jobs

    parser = argparse.ArgumentParser(prog="alignax export", add_help=False)
    parser.add_argument("--to", default=None)
    parser.add_argument("--step", type=int, default=None)
    options, overrides = parser.parse_known_args(arguments)
    experiment = _experiment(path, overrides)
    target = Path(options.to) if options.to else Path(experiment.output_dir) / "export"
    jobs.export_newest(experiment, target, step=options.step)


def _score(path: str, arguments: list[str]) -> None:
    from alignax import score

    parser = argparse.ArgumentParser(prog="alignax score", allow_abbrev=False)
    parser.add_argument("--data", required=True)
    parser.add_argument("--to", required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=None)
    parser.add_argument("--template", choices=("chat", "none"), default="chat")
    parser.add_argument("--chat-template")
    parser.add_argument("--whole-numbers", action="store_true")
    options = parser.parse_args(arguments)
    if ":" in path:
        score.score_by(path, options.data, options.to, split=options.split)
        return
    score.score(
        path,
        options.data,
        options.to,
        split=options.split,
        batch_size=options.batch_size,
        max_length=options.max_length,
        template=options.template,
        chat_template=options.chat_template,
        whole_numbers=options.whole_numbers,
    )


def _compare(path: str, arguments: list[str]) -> None:
    from pathlib import Path

    from alignax.compare import manage
    from alignax.compare.settings import Part

    parser = argparse.ArgumentParser(prog="alignax compare", allow_abbrev=False)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--add", action="append", default=[], metavar="MODULE:ENTRY")
    parser.add_argument("--only", nargs="*", default=[], metavar="ENTRY")
    parser.add_argument("--claim", action="append", default=[], metavar="NAME")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--workers", type=int)
    options = parser.parse_args(arguments)
    output = options.output or Path("runs") / Path(path).stem
    manage.compare(
        path,
        output,
        part=Part(
            added=tuple(options.add), only=tuple(options.only), claims=tuple(options.claim),
            seeds=options.seeds,
        ),
        workers=options.workers,
        command=" ".join(["alignax compare", path, *arguments]),
    )  # fmt: skip


def _report(path: str, arguments: list[str]) -> None:
    from pathlib import Path

    from alignax.compare.report import report

    argparse.ArgumentParser(prog="alignax report", allow_abbrev=False).parse_args(arguments)
    report(Path(path))


COMMANDS: dict[str, Callable[[str, list[str]], None]] = {
    "train": _train,
    "rerun": _rerun,
    "plan": _plan,
    "prepare": _prepare,
    "show": _show,
    "sample": _sample,
    "evaluate": _evaluate,
    "export": _export,
    "score": _score,
    "compare": _compare,
    "report": _report,
}
