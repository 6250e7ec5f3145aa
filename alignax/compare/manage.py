"""Runs a comparison's cells in processes, cell by cell resumable, in the order that they need.

OUTPUT/cells/...       a result.json a cell
OUTPUT/results.jsonl   all of them, a line for every measurement
OUTPUT/findings.json   what they say (`analysis`); OUTPUT/report.html, the page
OUTPUT/worker-0.log    what the runs of a process printed
OUTPUT/parts/NAME/...  results, findings and page of a part (`--only`, `--claim`, `--seeds`)
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import IO, Any

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from alignax import facts
from alignax.compare import cells as cells_lib
from alignax.compare import fingerprints, results
from alignax.compare.budgets import choose, updates
from alignax.compare.cells import Cell
from alignax.compare.report import MADE, made, report
from alignax.compare.settings import WHOLE, Comparison, Part, load
from alignax.compare.turns import Turns
from alignax.config import check
from alignax.core.errors import BadInput
from alignax.core.telling import Lines
from alignax.run import console
from alignax.train import optim

Results = dict[Cell, dict[str, Any]]
# Of programs that run for seconds: LLVM's first level, and no MLIR for each fusion. On the tiny
# model results differ by rounding; larger models: not measured.
FAST_TO_COMPILE = "--xla_backend_optimization_level=1"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones abort at this name
    FAST_TO_COMPILE += " --xla_cpu_use_fusion_emitters=false"
MUST = {"proxy": "a reward model", "baselines": "the reference's answers"}


def compare(
    config: str | Path,
    output: Path,
    *,
    part: Part = WHOLE,
    page: Path | None = None,
    workers: int | None = None,
    command: str = "",
) -> Path:
    """Runs what is not there yet of a comparison, and reports.

    Args:
        output: where cells are, those of other parts too, which are not run again.
        page: the folder of results, findings and page; `output` where None.
        workers: cells at a time; None for the comparison's own on CPUs, and else one: a process
            takes all of an accelerator's memory.
        command: that started this, for the page.

    Returns:
        The page.

    Raises:
        BadInput: settings that cannot be compared; a reward model, or answers of the reference,
            that could not be made.
    """
    comparison = load(config, part)
    output = output.expanduser()  # as the runs below it do
    page = page.expanduser() if page else output
    for folder in (output, page):
        folder.mkdir(parents=True, exist_ok=True)
    one, two = Cell(purpose="proxy"), Cell(purpose="baselines")
    cpus = _on_cpus()
    workers = workers or (comparison.workers if cpus else 1)
    flags = FAST_TO_COMPILE if cpus else ""
    # Nothing else can be done meanwhile, so it has all cores.
    with Pool(config, comparison, output, part, 1, flags) as pool:
        found = pool.run([one], "reward model", must=one)
    tuning = cells_lib.tuning(comparison)
    for cell in tuning:  # rewards are there to be looked at now
        check(cells_lib.experiment(comparison, cell, output))
    _check_variants(comparison, output)
    # How long others train depends on what this one spends.
    first = [cell for cell in tuning if cell.entry == comparison.compute_like]
    with Pool(config, comparison, output, part, workers, flags, anew=not cpus) as pool:

        def seeds(found: Mapping[Cell, Mapping[str, Any]], after: bool = False) -> list[Cell]:
            """The runs that are known to be wanted: of entries whose trials have all ended."""
            going = {cell.entry for cell in tuning if cell not in found}
            if comparison.compute_like in going:
                return []
            tuned = {c: x for c, x in found.items()
                     if c.purpose == "tune" and c.entry not in going}  # fmt: skip
            chosen = choose(comparison, tuned)
            wanted = cells_lib.final(comparison, chosen, updates(comparison, chosen, tuned))
            return [x for x in wanted if after or comparison.entry(x.entry).after is None]

        wanted = [two, *first, *(cell for cell in tuning if cell not in first)]
        found |= pool.run(wanted, "trials, and seeds of what they chose", must=two, then=seeds)
        last = [cell for cell in seeds(found, after=True) if cell not in found]
        found |= pool.run(last, "seeds of what comes after others")
    results.write(comparison, page, found)
    for cell, result in found.items():
        if "failed" in result:
            console.print(f"[yellow]failed[/] {escape(cell.path)}: {escape(result['failed'])}")
    commits = sorted({result.get("commit") or "" for result in found.values()} - {""})
    if said := of_other_commits(commits, (facts.git() or {}).get("commit")):
        console.print(f"[yellow]{said}[/]")
    seconds = sum(result["wall"] for result in found.values())
    around = made(command, seconds, facts.versions(), ", ".join(commits))
    (page / MADE).write_text(json.dumps(around), encoding="utf-8")
    return report(page)


def of_other_commits(commits: Sequence[str], now: str | None) -> str | None:
    """What is to be known of runs that are not all of the code as it is; None where they are."""
    if len({*commits, now} - {None}) <= 1:
        return None
    here = f", and the code is that of {now}" if now and now not in commits else ""
    return f"runs of {len(commits)} commit{'s' * (len(commits) != 1)}: {', '.join(commits)}{here}"


def _check_variants(comparison: Comparison, output: Path) -> None:
    """Refuses what can only fail, hours later: entries without trials of their own are run last."""
    for entry in comparison.entries:
        tried = comparison.entry(entry.like).trials if entry.like is not None else ()
        errors = []
        for trial in range(len(tried)):
            cell = Cell(purpose="final", entry=entry.name, trial=trial,
                        steps=comparison.base.loop.max_steps or 0)  # fmt: skip
            made = cells_lib.experiment(comparison, cell, output)
            try:
                check(made)
                optim.check(made.optim, made.loop.max_steps or cell.steps)
            except BadInput as error:
                errors.append(error)
        if errors and len(errors) == len(tried):
            raise errors[0]


def _on_cpus() -> bool:
    """Whether runs will; asked in another process, for to ask is to take an accelerator."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return True
    words = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    said = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False).stdout.split()
    return said[-1:] == ["cpu"]


class Pool:
    """Processes that run cells; a context.

    Args:
        flags: of XLA in them, before the user's own, which win.
        anew: whether an entry's cells have a process of their own, as their peak of an
            accelerator's memory asks for.
    """

    def __init__(
        self,
        config: str | Path,
        comparison: Comparison,
        output: Path,
        part: Part,
        workers: int,
        flags: str = "",
        anew: bool = False,
    ):
        self._config, self._comparison, self._output = config, comparison, output
        self._part = json.dumps(dataclasses.asdict(part))
        self._flags = f"{flags} {os.environ.get('XLA_FLAGS', '')}".strip()
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._cores = [cores[i::workers] if len(cores) >= workers else [] for i in range(workers)]
        # A variant has mostly the programs of the entry that it varies.
        self._turns = Turns(lambda x: x.entry and (comparison.entry(x.entry).like or x.entry))
        self._anew = anew
        self._last: list[str | None] = [None] * workers  # entries
        self._processes: list[subprocess.Popen | None] = [None] * workers
        self._logs: list[IO[str]] = []

    def __enter__(self) -> "Pool":
        for i in range(len(self._processes)):
            self._logs.append((self._output / f"worker-{i}.log").open("a"))
        return self

    def __exit__(self, *error: object) -> None:
        for number, process in enumerate(self._processes):
            if process is not None:
                if error[0] is not None:
                    process.kill()
                self._end(number)
        for log in self._logs:
            log.close()

    def _end(self, number: int) -> int:
        """Waits for a process that has nothing more to do, and gives its exit code."""
        process = self._processes[number]
        assert process is not None
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._processes[number] = None
        return process.wait()

    def run(
        self,
        wanted: Sequence[Cell],
        title: str,
        *,
        must: Cell | None = None,
        then: Callable[[Results], Sequence[Cell]] = lambda found: (),
    ) -> Results:
        """The results of cells: those on disk whose settings are the same, and the others' anew.

        Args:
            must: one of them, without which nothing goes on.
            then: what else is wanted, given all that has ended so far.
        """
        found: Results = {}
        given: dict[Cell, None] = {}
        columns = (TextColumn(f"[bold]{title}"), BarColumn(), MofNCompleteColumn(),
                   TimeElapsedColumn(), TextColumn("{task.fields[cell]}"))  # fmt: skip
        with (
            Progress(*columns, console=console) as bar,
            ThreadPoolExecutor(len(self._processes)) as threads,
        ):
            task = bar.add_task(title, cell="")
            lines = Lines(console)

            def give(cells: Sequence[Cell]) -> bool:
                """Hands out cells that were not yet; whether some had ended long ago."""
                new = [cell for cell in cells if cell not in given]
                known = self._known(new)
                given.update(dict.fromkeys(new))
                found.update(known)
                self._turns.add(cell for cell in new if cell not in known)
                bar.update(task, total=len(given), completed=len(found))
                return bool(known)

            def ended(cell: Cell) -> None:
                found.update(cells_lib.read(self._output, [cell]))
                if cell == must and "failed" in found[cell]:
                    self._turns.close()
                give(())
                while give(then(found)):
                    pass
                lines.say(f"{title}: {cell.path}", len(found), len(given), at_start)

            def work(number: int) -> None:
                for cell in self._turns.of(number, ended):
                    bar.update(task, cell=cell.path)
                    self._run(number, cell)

            give(wanted)
            while give(then(found)):
                pass
            at_start = len(found)
            try:
                going = [threads.submit(work, i) for i in range(len(self._processes))]
                for future in as_completed(going):
                    future.result()
            except BaseException:
                self._turns.close()
                for process in self._processes:
                    if process is not None:
                        process.kill()
                raise
        if must is not None and "failed" in found[must]:
            raise BadInput(
                f"{MUST[must.purpose]}, from which all else begins",
                found[must]["failed"].removesuffix("."),  # of a message that ends with one
                "worker-*.log has more. Mend it and start again: what is finished stays.",
                where=str(self._output),
            )
        return {cell: found[cell] for cell in given}

    def _known(self, cells: Sequence[Cell]) -> Results:
        """Of cells that have ended before, and whose settings are the same now.

        A part without what begins from a cell's weights has not kept them.
        """
        begun_from = {entry.after for entry in self._comparison.entries}

        def kept(cell: Cell) -> bool:
            if cell.purpose != "final" or cell.entry not in begun_from:
                return True
            return (cells_lib.result_path(self._output, cell).parent / "export").is_dir()

        return {
            cell: result
            for cell, result in cells_lib.read(self._output, cells).items()
            if "failed" not in result
            and result["fingerprint"] == fingerprints.of(self._comparison, cell)
            and kept(cell)
        }

    def _run(self, number: int, cell: Cell) -> None:
        """One cell in one of the processes; where that dies, so says the result."""
        if self._anew and self._processes[number] and self._last[number] != cell.entry:
            self._end(number)
        self._last[number] = cell.entry
        process = self._processes[number] or self._start(number)
        assert process.stdin is not None
        assert process.stdout is not None
        began = time.perf_counter()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(vars(cell)) + "\n")
            process.stdin.flush()
        if not process.stdout.readline():
            code = self._end(number)
            path = cells_lib.result_path(self._output, cell)
            reason = f"the process ended with {code}, for example for want of memory"
            wall = time.perf_counter() - began
            cells_lib.write(path, {"failed": reason, "cell": vars(cell), "wall": wall})

    def _start(self, number: int) -> subprocess.Popen:
        words = [sys.executable, "-m", "alignax.compare.worker", str(self._config)]
        words += ["--output", str(self._output), "--part", self._part]
        words += ["--cores", *map(str, self._cores[number])]
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._logs[number],
            text=True, encoding="utf-8", env={**os.environ, "XLA_FLAGS": self._flags},
        )  # fmt: skip
        self._processes[number] = process
        return process
