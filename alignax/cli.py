"""The command line: `alignax COMMAND CONFIG [--setting value ...]`."""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Sequence

# XLA's and TFDS's own start-up chatter is not for the people who train models.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

USAGE = """alignax COMMAND CONFIG [--setting value ...]
       alignax COMMAND --method NAME [--data FILE] [--model DIRECTORY] [--setting value ...]

for example:
  alignax train configs/quickstart.py --method.beta 0.2 --output-dir runs/mine

commands:
  methods   list the methods: what each learns from, what it needs, its paper   (methods dpo: one)
  train     prepare, check, train, evaluate and export; goes on where it was interrupted
            (--seeds 8 and --grid method.beta=0.05,0.1: runs side by side, as one program)
            (--profile, or --profile STEPS: where the time of a few updates goes)
  rerun     repeat a finished run and compare every number   (alignax rerun OUTPUT_DIR)
  plan      what an update takes on devices that are not at hand: memory, arithmetic, traffic
            (--topology v5p:4x4x8, h100:8 or cpu:8; --prompt 512 --response 512 --responses 2)
  prepare   read and tokenise the data, run the preflight checks, lay out the plan, and stop
  show      print an example token by token, scored tokens in colour   (--index 0, --split train);
            or of a model directory or hub id: its parameters, tokenizer and chat template
  sample    answer prompts   (--prompt TEXT, again for more, or --data FILE --to FILE; CONFIG may
            be a model directory; --server URL --served NAME: an outside engine answers)
  evaluate  measure the newest checkpoint on the held-out data
  export    write the newest checkpoint, or that of --step N, as a Hugging Face directory with a
            model card   (--to DIRECTORY)
  score     give every row of a data set a reward model's scores, or a Python function's
            (alignax score MODEL_DIRECTORY, or FILE.py:FUNCTION, --data FILE --to FILE)
  compare   which method is better: all methods of a comparison, tuned alike, over many seeds, with
            verdicts and a page   (alignax compare configs/compare_tiny.py; --add MODULE:ENTRY)
  report    the page of a comparison again, from its raw results   (alignax report OUTPUT_DIR)

CONFIG is a Python file such as configs/quickstart.py; --method takes the one of that method. Any of
its settings can be changed by its dotted name, e.g. --method.beta 0.2 --loop.max-steps 50.
`alignax help COMMAND` lists a command's own options, `alignax COMMAND CONFIG --help` the settings
of the config too. With --distributed the same command, started on every host, is one run over all
of them. `alignax --version` says what is installed.
"""


def command() -> None:
    """What is installed as `alignax`: `main`, in a process of its own."""
    _in_large_pages()
    main()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command. Exits with 2, and the reason, where the input cannot be used; with 130
    where the user has stopped it.
    """
    from alignax.core.errors import BadInput

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        _run(list(sys.argv[1:] if arguments is None else arguments))
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stopped:  # training takes the first one as a request to save
        notes = getattr(stopped, "__notes__", ())  # of who keeps what was done until then
        print("; ".join(["interrupted", *notes]), file=sys.stderr)
        sys.exit(130)
    except OSError as error:  # a full disk may be met wherever something is written
        if error.errno != errno.ENOSPC:
            raise
        full = BadInput(
            "free disk space",
            str(error.strerror),
            "Free some and start again; the last checkpoint is whole.",
            where=str(error.filename) if error.filename else None,
        )
        print(f"error: {full}", file=sys.stderr)
        sys.exit(2)


def _in_large_pages() -> None:
    """Starts this process over where its memory would come in pages of 4 KiB, and Linux has others.

    On CPUs every update takes its temporary arrays from the system and gives them back, and the
    system clears each page: an eighth to a quarter of a step. glibc reads this setting only as a
    process begins. GLIBC_TUNABLES=glibc.malloc.hugetlb=0 keeps small pages.
    """
    name, given = "glibc.malloc.hugetlb", os.environ.get("GLIBC_TUNABLES", "")
    if name in given or not sys.executable or not sys.orig_argv or _glibc() < (2, 35):
        return
    os.environ["GLIBC_TUNABLES"] = f"{given}:{name}=1" if given else f"{name}=1"
    # By its path, and not by the word that it was called by: from that Python finds its packages.
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _glibc() -> tuple[int, ...]:
    """Its version; none where the system has another library."""
    try:
        library, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        return tuple(map(int, version.split(".")[:2])) if library == "glibc" else ()
    except (AttributeError, ValueError, OSError):  # Windows, macOS, musl
        return ()


def _run(arguments: list[str]) -> None:
    from alignax.core.errors import BadInput

    if not arguments or arguments[0] in ("-h", "--help") or arguments == ["help"]:
        print(USAGE)
        return
    if arguments[0] in ("-V", "--version", "version"):
        from importlib.metadata import version

        names = ("alignax", "jax", "jaxlib", "transformers")
        print(*(f"{name} {version(name)}" for name in names), sep=", ")
        return
    from alignax import options
    from alignax.commands import COMMANDS, explain

    name, *rest = arguments if arguments[0] != "help" else [*arguments[1:], "--help"]
    if name not in COMMANDS:
        from alignax.core.setting_types import nearest

        near = nearest(name, list(COMMANDS))
        raise BadInput(
            f"a command: {', '.join(COMMANDS)}",
            name,
            f"Did you mean {near}?" if near else "alignax --help explains them.",
            where="command line",
        )
    if {"-h", "--help"}.intersection(rest):
        explain(name, rest)
        return
    first, example, _, settings = options.COMMANDS[name]
    nothing = not rest or rest[0].startswith("-")
    by_method = settings and any(word.split("=")[0] == "--method" for word in rest)
    if by_method and not nothing:
        raise BadInput(
            f"{first} or --method NAME",
            f"both, {rest[0]} and --method",
            "Leave one of them out: --method takes that method's default config.",
            where="command line",
        )
    if nothing and not by_method and first[0] != "[":
        raise BadInput(
            f"{first}{' or --method NAME' if settings else ''} after alignax {name}",
            rest[0] if rest else "nothing",
            f"For example: alignax {name} {example}",
            where="command line",
        )
    rest = ["", *rest] if nothing else rest
    if name == "methods":  # waits for nothing of what follows
        COMMANDS[name](rest[0], rest[1:])
        return
    from alignax.core import processes
    from alignax.train import compilations

    compilations.keep_on_disk()
    distributed = "--distributed" in rest
    rest = [word for word in rest if word != "--distributed"]
    listens = name in ("train", "rerun")  # the others have nothing to save
    with processes.joined(listens=listens) if distributed else contextlib.nullcontext():
        COMMANDS[name](rest[0], rest[1:])


if __name__ == "__main__":
    main()
