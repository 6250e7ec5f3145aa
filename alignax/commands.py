"""The commands of the command line: each reads its own options and puts a room to work.

Imports stand in the functions: a command waits for nothing that it does not use.
"""

import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from alignax import options as options_lib


def _experiment(path: str, overrides: Sequence[str], command: str = "train"):
    """The experiment of a config, checked; without one, of the method that the overrides name.

    Args:
        command: whose `--help` lists the settings, for the messages.
    """
    from alignax import catalogue, config
    from alignax.overrides import override

    options_lib.refuse_sweep(command, overrides)
    if path:
        options_lib.refuse_methods_own(command, path, overrides)
        catalogue.refuse_as_config(path)
        named = f"alignax {command} {shlex.quote(path)}"
        made = override(config.load(path), overrides, command=named)
    else:
        named = f"alignax {command} --method NAME"
        made = override(*catalogue.experiment(overrides), command=named)
    config.check(made)
    return made


def explain(command: str, arguments: Sequence[str]) -> None:
    """Prints what a command takes and, where `arguments` name a config, its settings."""
    words = [word for word in arguments if word != "--distributed"]
    path = "" if not words or words[0].startswith("-") else words.pop(0)
    print(options_lib.explained(command, beside_config=path.endswith(".py")))
    if not options_lib.COMMANDS[command].settings:
        return
    if path.endswith(".py") or any(word.split("=")[0] == "--method" for word in words):
        given = options_lib.parser(command).parse_known_args(words)[1]
        _experiment(path, given, command)


def _methods(name: str, arguments: list[str]) -> None:
    from alignax import catalogue
    from alignax.run import console

    options_lib.parser("methods").parse_args(arguments)
    if name:
        print(catalogue.explained(catalogue.entry(name, where="command line")))
    else:
        console.print(catalogue.table())


def _train(path: str, arguments: list[str]) -> None:
    from alignax import jobs
    from alignax.train import checkpoint_names, compilations

    # A trace is no part of the run.
    tracing, arguments = options_lib.parser("train", "--profile").parse_known_args(arguments)
    parser = options_lib.parser("train", "--seeds", "--grid")
    options, overrides = parser.parse_known_args(arguments)
    words = [*([path] if path else []), *arguments]
    experiment = _experiment(path, overrides)
    if tracing.profile is not None:
        compilations.keep_apart_by_names()
    if options.seeds is None and options.grid is None:
        with checkpoint_names.not_left_empty(experiment.output_dir):
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
    with checkpoint_names.not_left_empty(experiment.output_dir):
        sweep.train(experiment, members.Sweep(seeds=seeds, grid=grid), command=words)


def _rerun(path: str, arguments: list[str]) -> None:
    from pathlib import Path

    from alignax import rerun
    from alignax.run import console

    options_lib.parser("rerun").parse_args(arguments)
    first, *rest = rerun.command(Path(path))
    words = ("", [first, *rest]) if first.startswith("-") else (first, rest)
    found = rerun.rerun(_experiment(*words), Path(path))
    console.print(rerun.describe(found))
    if not found.same:
        sys.exit(1)


def _plan(path: str, arguments: list[str]) -> None:
    from alignax import forecast, planning, topology
    from alignax.run import console

    options, overrides = options_lib.parser("plan").parse_known_args(arguments)
    topology.prepare(options.topology)
    experiment = _experiment(path, overrides, "plan")
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
    from alignax import run

    experiment = _experiment(path, arguments, "prepare")
    work = run.Run(experiment)
    work.preflight()
    if not experiment.rollout:  # what is not drawn yet has no lengths to lay out
        work.describe_plan()


def _show_model(name: str, arguments: list[str]) -> None:
    from pathlib import Path

    from alignax import catalogue, show
    from alignax.core.errors import BadInput
    from alignax.run import console

    catalogue.refuse_as_config(name)
    if not Path(name).exists() and Path(f"{name}.py").is_file():
        raise BadInput(
            "a config file, a model directory or a hub id",
            name,
            f"Did you mean {name}.py?",
            where="command line",
        )
    options = options_lib.parser("show", "--chat-template").parse_args(arguments)
    show.model(name, console, chat_template=options.chat_template)


def _show(path: str, arguments: list[str]) -> None:
    if path and not path.endswith(".py"):
        _show_model(path, arguments)
        return
    from alignax import run
    from alignax.core.errors import BadInput
    from alignax.data.preflight import show
    from alignax.run import console

    parser = options_lib.parser("show", "--index", "--split")
    options, overrides = parser.parse_known_args(arguments)
    work = run.Run(_experiment(path, overrides, "show"))
    sampled = bool(work.experiment.rollout)
    data = work.prompts(options.split) if sampled else work.prepared(options.split)
    if not 0 <= options.index < len(data):
        raise BadInput(
            f"an index from 0 to {len(data) - 1}",
            str(options.index),
            "Examples are counted from 0.",
            where="--index",
        )
    # Not broken at a width: a break takes spaces away, which are parts of tokens.
    console.print(show(data[options.index], work.renderer), soft_wrap=True)


def _sample(path: str, arguments: list[str]) -> None:
    from pathlib import Path

    from alignax import catalogue, sample
    from alignax.core.errors import BadInput
    from alignax.generate.server import Server

    catalogue.refuse_as_config(path)
    options, overrides = options_lib.parser("sample").parse_known_args(arguments)
    _refuse_unread_by_sample(options, arguments)
    directory = path
    reading: dict[str, Any] = {"split": options.split, "on_bad_row": options.on_bad_row or "refuse"}
    rendering: dict[str, Any] = {
        "template": options.template or "chat",
        "chat_template": options.chat_template,
    }
    if not path or Path(path).suffix == ".py":
        from alignax.run import Run
        from alignax.trained import newest_export

        experiment = _experiment(path, overrides, "sample")
        exported = newest_export(Path(experiment.output_dir))
        directory = str(exported or experiment.model.model_name_or_path)
        if exported is None or exported.name != "export":
            logging.getLogger("alignax").warning(
                "there is no %s/export yet: %s answers%s", experiment.output_dir, directory,
                ", from which the config begins" if exported is None else "",
            )  # fmt: skip
        rendering = {
            "template": options.template or experiment.data.template,
            "chat_template": options.chat_template or experiment.data.chat_template,
            "chat_template_kwargs": experiment.data.chat_template_kwargs,
            "ask": Run(experiment).method.ask,
        }
        reading["on_bad_row"] = options.on_bad_row or experiment.data.on_bad_row
        reading["max_dropped_share"] = experiment.data.max_dropped_share
    elif overrides:
        raise BadInput(
            "options of sample beside a model directory",
            " ".join(overrides),
            "They are --prompt, or --data and --to (with --split, --on-bad-row); --server, "
            "--served; --template, --chat-template; "
            "--num-samples, --max-new-tokens, --temperature, --top-p, --top-k, --min-p, --seed. "
            "Settings go with a config file.",
            where="command line",
        )
    if options.on_bad_row == "drop":
        reading["max_dropped_share"] = 1.0  # whoever says so here has said that it may be many
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
    sample.sample(directory, options.data, options.to, **reading, **rendering, **settings)


def _refuse_unread_by_sample(options: Any, arguments: Sequence[str]) -> None:
    if options.prompt:
        options_lib.refuse_unread(
            arguments, ("--data", "--to", "--split", "--on-bad-row"), beside="--prompt",
            remedy="Answer prompts in one call and a file of them in another.",
        )  # fmt: skip
    if not options.server:
        options_lib.refuse_unread(
            arguments, ("--served",), beside="a model that answers itself",
            remedy="It names the model of a --server: give its URL too.",
        )  # fmt: skip
    options_lib.refuse_unread(
        arguments, ("--evaluation.sampler.",), beside="the options of sample",
        remedy="They say how answers are drawn, whatever the config says of its evaluation: give "
        "--temperature, --max-new-tokens and so on.",
    )  # fmt: skip


def _evaluate(path: str, arguments: list[str]) -> None:
    from alignax import jobs

    jobs.evaluate(_experiment(path, arguments, "evaluate"))


def _export(path: str, arguments: list[str]) -> None:
    from pathlib import Path

    from alignax import jobs

    options, overrides = options_lib.parser("export").parse_known_args(arguments)
    experiment = _experiment(path, overrides, "export")
    jobs.export_newest(experiment, Path(options.to) if options.to else None, step=options.step)


def _score(path: str, arguments: list[str]) -> None:
    from alignax import score

    options = options_lib.parser("score").parse_args(arguments)
    reading = {"split": options.split, "on_bad_row": options.on_bad_row or "refuse"}
    if ":" in path:
        options_lib.refuse_unread(
            arguments,
            ("--batch-size", "--max-length", "--template", "--chat-template", "--whole-numbers"),
            beside="a function",
            remedy="Only a model takes it: leave it out.",
        )
        score.score_by(path, options.data, options.to, **reading)
        return
    score.score(
        path,
        options.data,
        options.to,
        **reading,
        batch_size=options.batch_size,
        max_length=options.max_length,
        template=options.template or "chat",
        chat_template=options.chat_template,
        whole_numbers=options.whole_numbers,
    )


def _compare(path: str, arguments: list[str]) -> None:
    from pathlib import Path

    from alignax.compare import manage
    from alignax.compare.settings import Part

    options = options_lib.parser("compare").parse_args(arguments)
    output = Path(options.output or f"runs/{Path(path).stem}")
    part = Part(
        added=tuple(options.add), only=tuple(options.only), claims=tuple(options.claim),
        seeds=options.seeds,
    )  # fmt: skip
    manage.compare(
        path,
        output,
        part=part,
        page=output / "parts" / part.name if part.name and not options.output else output,
        workers=options.workers,
        command=shlex.join(["alignax", "compare", path, *arguments]),
    )


def _report(path: str, arguments: list[str]) -> None:
    from pathlib import Path

    from alignax.compare.report import report

    options = options_lib.parser("report").parse_args(arguments)
    report(Path(path).expanduser(), Path(options.output).expanduser() if options.output else None)


COMMANDS: dict[str, Callable[[str, list[str]], None]] = {
    "methods": _methods,
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
