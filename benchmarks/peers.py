"""The programs that are timed, and an environment of its own for each other library.

    python -m benchmarks environments           # makes those that are missing, in .cache/peers
    python -m benchmarks environments --platform gpu                         # in .cache/peers-gpu

Versions are pinned to those that the scripts were written against. An environment is complete when
it holds the list of what is in it, `installed.txt`, which is written last. Its first line says what
was asked for: where that is something else now, the environment is made anew.
"""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks.shapes import Shape

HERE = Path(__file__).parent
Platform = Literal["cpu", "gpu"]
ENVIRONMENTS: dict[Platform, Path] = {"cpu": Path(".cache/peers"), "gpu": Path(".cache/peers-gpu")}
ASKED = "# asked for: "  # begins the first line of installed.txt
# First, so that what follows takes this one. For CPUs or GPUs, as the index has it that pip is set
# to: PyPI's is for NVIDIA's GPUs.
TORCH = "torch==2.13.0"
Requirements = dict[str, tuple[tuple[str, ...], ...]]
REQUIREMENTS: Requirements = {
    "trl": ((TORCH,), ("trl==1.16.0", "transformers==5.23.0", "peft==0.21.2")),
    "tunix": (("google-tunix==0.1.7", "jax==0.10.2"),),
    # Importing one of its models needs PyTorch and Pillow, which it does not ask for.
    "easydel": ((TORCH,), ("easydel==0.3.0", "pillow==13.0.0")),
}
# FlashAttention is compiled where it is installed, and is left to who wants it.
ON_GPUS: Requirements = {
    "trl": (*REQUIREMENTS["trl"], ("liger-kernel==0.8.5",)),
    "tunix": (("google-tunix==0.1.7", "jax[cuda12]==0.10.2"),),
    "easydel": (*REQUIREMENTS["easydel"], ("jax[cuda12]",)),  # of the version that it has taken
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """One row of a table.

    Fields:
        name: of the row.
        peer: what `--against` calls it; None for this library, which is always there.
        environment: whose Python runs it; None for this one.
        script: what it runs.
        tasks: that it can be asked for.
        options: that its script is given.
        adapter: whether it trains adapters too.
        only: the shapes that it is timed on; none for all of its tasks.
        once: in the first round alone.
        platform: that it is for; None for both.
    """

    name: str
    peer: str | None
    environment: str | None
    script: str
    tasks: tuple[str, ...]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    adapter: bool = False
    only: tuple[str, ...] = ()
    once: bool = False
    platform: Platform | None = None

    def fits(self, shape_name: str, shape: Shape, platform: Platform = "cpu") -> bool:
        """Whether it is timed on a shape."""
        wanted = not self.only or shape_name in self.only
        wanted = wanted and self.platform in (None, platform)
        return shape.task in self.tasks and (self.adapter or not shape.adapter) and wanted

    def command(self, job: Path, environments: Path) -> list[str]:
        """The command line of one run."""
        if self.environment is None:
            return [sys.executable, "-m", self.script, str(job)]
        python = environments / self.environment / "bin" / "python"
        return [str(python), "-P", str(HERE / self.script), str(job)]


OURS = Program(
    name="alignax",
    peer=None,
    environment=None,
    script="benchmarks.ours",
    tasks=("dpo", "sft", "reward", "rrhf", "pro", "grpo", "remax"),
    adapter=True,
)
LISTS = ("rrhf", "pro")
FUSED = ("dpo 1:1", "dpo 4:1")  # to compile a step takes PyTorch minutes


def _ours(name: str, form: str) -> Program:
    return dataclasses.replace(OURS, name=name, options={"form": form}, tasks=LISTS, adapter=False)


def _trl(name: str, tasks: tuple[str, ...], **how: Any) -> Program:
    return Program(
        name=name, peer="trl", environment="trl", script="peer_trl.py", tasks=tasks, **how
    )


def _raw(name: str, tasks: tuple[str, ...], only: tuple[str, ...] = (), **options: bool) -> Program:
    return Program(
        name=name,
        peer="raw",
        environment="trl",
        script="peer_raw.py",
        tasks=tasks,
        options=options,
        only=only,
    )


def _jax(name: str, peer: str, **options: int) -> Program:
    return Program(
        name=name,
        peer=peer,
        environment=peer,
        script=f"peer_{peer}.py",
        tasks=("dpo",),
        options=options,
    )


PROGRAMS = (
    OURS,
    _ours("alignax, each response behind its own prompt", "concatenated"),
    _ours("the same, and all positions meet the vocabulary", "everywhere"),
    _trl("TRL", ("dpo", "sft", "reward", "grpo"), adapter=True),
    _trl("TRL, its own stored reference", ("dpo",), options={"stored": True}),
    _trl(
        "TRL, its default of computing blocks again",
        ("dpo",),
        options={"checkpointing": True},
        only=("dpo 1:1",),
        once=True,
    ),
    _trl(
        "TRL, best settings",
        ("dpo", "sft"),
        options={"stored": True, "best": True},
        platform="gpu",
    ),
    _trl(
        "TRL, best settings, blocks computed again",
        ("dpo",),
        options={"stored": True, "best": True, "checkpointing": True},
        platform="gpu",
    ),
    _raw("bare PyTorch loop", ("dpo", "sft", "rrhf")),
    _raw("the same, reference stored, responses alone meet the vocabulary", ("dpo",), stored=True,
         tail=True),
    _raw("the same, responses alone meet the vocabulary", ("sft", "rrhf"), tail=True),
    _raw("the same, compiled too, with fused AdamW and cross_entropy", ("dpo",), FUSED, stored=True,
         tail=True, fused=True),
    _jax("Tunix", "tunix"),
    _jax("Tunix, its reference computed before", "tunix", stored=True),
    _jax("EasyDeL, head in chunks of 32", "easydel", chunk=32),
    _jax("EasyDeL, its reference computed before", "easydel", chunk=32, stored=True),
)  # fmt: skip
PEERS = tuple(dict.fromkeys(p.peer for p in PROGRAMS if p.peer))


def make(name: str, environments: Path, platform: Platform = "cpu") -> Path:
    """An environment's folder, made now where it is not complete or has other versions.

    Raises:
        RuntimeError: the packages cannot be installed; its text is the installer's last line.
    """
    folder = environments / name
    stamp = folder / "installed.txt"
    wanted = (ON_GPUS if platform == "gpu" else REQUIREMENTS)[name]
    pins = [pin for together in wanted for pin in together]
    if stamp.exists() and complete(stamp.read_text(), pins):
        return folder
    python = folder / "bin" / "python"
    commands = [[sys.executable, "-m", "venv", "--clear", str(folder)]]
    commands += [[str(python), "-m", "pip", "install", "-q", *together] for together in wanted]
    for command in commands:
        print(" ".join(command), file=sys.stderr, flush=True)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise RuntimeError(f"environment {name}: {last}")
    freeze = [str(python), "-m", "pip", "freeze"]
    found = subprocess.run(freeze, capture_output=True, text=True, check=True).stdout
    stamp.write_text(f"{ASKED}{' '.join(pins)}\n{found}")
    return folder


def complete(installed: str, pins: Sequence[str]) -> bool:
    """Whether an environment is the one that is asked for.

    Args:
        installed: the text of its `installed.txt`. Without a first line of what was asked for it
            was made by hand, and must list every pin; a local version such as `+cpu` may follow.
    """
    first, *_ = lines = installed.splitlines() or [""]
    if first.startswith(ASKED):
        return first == ASKED + " ".join(pins)
    has = {line.partition("+")[0].lower().replace("_", "-") for line in lines}
    has |= {line.partition("==")[0] for line in has}  # for what is asked for in any version
    return all(re.sub(r"\[.*\]", "", pin.lower()) in has for pin in pins)
