"""`python -m benchmarks.published RUN FOLDER`: a comparison's raw results, small enough to commit.

RUN is the output of `alignax compare`. FOLDER gets its numbers of every seed, step and prompt,
the texts that the page shows, compressed, and what was compared and how it was made:
`alignax report FOLDER --output ELSEWHERE` makes tables and page of these again. What is printed are
two tables that the report has as curves or not at all: the league by update, and the runs beside
it. With `--against OLD`, what was published before (a folder, as git has it): what differs.
"""

import argparse
import gzip
import json
import pathlib
import shutil
from typing import Any

import numpy as np

from alignax.compare import results
from alignax.compare.analysis import SHOWN
from alignax.compare.report import MADE
from alignax.compare.results import DESCRIPTION, RESULTS, Results, Runs
from alignax.data import json_lines
from alignax.evaluate.paired import crossed

TEXTS = ("texts", "text_gold", "text_proxy")
EVERY = 16  # updates between two columns


def publish(run: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes the three files."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = _shown(results.read(run))
    kept = [_without_texts(line, shown) for line in json_lines.read(run / RESULTS)]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept)
    # No time in the file: the same results are the same bytes.
    (folder / f"{RESULTS}.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    for name in (DESCRIPTION, MADE):
        shutil.copyfile(run / name, folder / name)


def _shown(found: Results) -> set[tuple[str, int, int]]:
    """Entry, seed and step of the answers that the page shows, and of those before training."""
    described, kept = found.described, set()
    for entry in described["entries"]:
        if entry["league"] and (runs := found.runs(entry["name"])) is not None:
            kept |= {(entry["name"], runs.seeds[0], step) for step in (0, described["data_steps"])}
    return kept


def _without_texts(line: dict[str, Any], shown: set[tuple[str, int, int]]) -> dict[str, Any]:
    whole = {k: x for k, x in line.items() if k not in TEXTS}
    if line["purpose"] != "final" or (line["entry"], line["seed"], line.get("step")) not in shown:
        return whole
    return whole | {name: line[name][:SHOWN] for name in TEXTS}


def by_update(found: Results) -> list[str]:
    """The league's rows: gold reward, proxy and KL, means over seeds and prompts, by update."""
    entries = [x for x in found.described["entries"] if x["league"]]
    steps = range(EVERY, found.described["most_updates"] + 1, EVERY)
    rows = [["gold / proxy / KL after", *map(str, steps)]]
    for entry in entries:
        runs = found.runs(entry["name"])
        if runs is not None:
            rows.append([entry["name"], *(_means(runs, step) for step in steps)])
    return _lines(rows)


def beside(found: Results) -> list[str]:
    """The rows of runs outside the league after their last update: those that claims and checks
    ask for, other seeds, and trials that had all seeds."""
    rows = [["run", "updates", "gold reward", "proxy", "KL, nats"]]
    for entry in found.described["entries"]:
        if not entry["league"] and (runs := found.runs(entry["name"])) is not None:
            rows.append([entry["name"], *_last(runs)])
        if (runs := found.runs(entry["name"], "again")) is not None:
            rows.append([f"{entry['name']}, other seeds", *_last(runs)])
        for trial, setting in enumerate(entry["trials"]):
            if (runs := found.runs(entry["name"], "spread", trial)) is not None:
                values = (f"{name.rpartition('.')[2]} {x:g}" for name, x in setting.items())
                rows.append([", ".join([entry["name"], *values]), *_last(runs)])
    return _lines(rows)


def _means(runs: Runs, step: int) -> str:
    if step not in runs.steps:
        return "-"
    gold, proxy, kl = (np.mean(runs.at(name, step)) for name in ("gold", "proxy", "kl"))
    return f"{gold:.2f} / {proxy:.2f} / {kl:.1f}"


def _last(runs: Runs) -> list[str]:
    step = runs.steps[-1]
    cells = ((crossed(runs.at(n, step)), d) for n, d in (("gold", 2), ("proxy", 2), ("kl", 1)))
    return [str(step), *(f"{x.mean:.{d}f} [{x.low:.{d}f}, {x.high:.{d}f}]" for x, d in cells)]


def _lines(rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    options = parser.parse_args()
    publish(options.run, options.folder)
    published = results.read(options.folder)
    print("\n".join([*by_update(published), "", *beside(published)]))
