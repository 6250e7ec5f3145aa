"""The end of a comparison, and `alignax report`: findings, the page, a table to read at once."""

import datetime
import json
import platform
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from alignax.compare import results as results_lib
from alignax.compare.analysis import findings
from alignax.compare.markdown import against, estimate, named, tables
from alignax.compare.page import render
from alignax.run import console

UNKNOWN = {"command": "", "versions": {}} | dict.fromkeys(("date", "hardware", "seconds", "git"))
MARKS = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[dim]limit[/]"}  # of a check
FINDINGS, TABLES, PAGE, MADE = "findings.json", "report.md", "report.html", "made.json"


def made(command: str, seconds: float, versions: dict[str, str], git: str | None) -> dict[str, Any]:
    """How results came about, for the page's foot."""
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions,
        "hardware": f"{_processor()}, {platform.system()} {platform.machine()}",
        "seconds": round(seconds),
        "git": git or "",
    }


def _processor() -> str:
    """The processor's own name where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor() or "unknown processor"


def report(output: Path, page: Path | None = None) -> Path:
    """Analyses the results of a comparison again, and writes findings, tables and page.

    Args:
        output: where the results are.
        page: the folder to write into; `output` where None.

    Returns:
        The page.

    Raises:
        BadInput: the folder holds no results.
    """
    raw, around, page = results_lib.read(output), output / MADE, page or output
    known = json.loads(around.read_text("utf-8")) if around.is_file() else UNKNOWN
    found = findings(raw, known)
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
    page.mkdir(parents=True, exist_ok=True)
    (page / FINDINGS).write_text(text, encoding="utf-8")
    (page / TABLES).write_text(tables(found), encoding="utf-8")
    (page / PAGE).write_text(render(found), encoding="utf-8")
    console.print(league(found))
    for claim in found["claims"]:
        says, because = escape(claim["says"]), escape(claim["because"])
        console.print(f"[bold]{claim['verdict']}[/]: {says} [dim]{because}[/]")
    for check in found["checks"]:
        console.print(f"{MARKS[check['passed']]} {escape(check['name'])}: {escape(check['found'])}")
    console.print(f"[bold]report[/]: {escape(str(page / PAGE))}")
    return page / PAGE


def league(found: dict[str, Any]) -> Table:
    """The entries by gold reward at the data budget, with how many each beats and loses to."""
    table = Table(title=f"{escape(found['title'])}: gold reward, equal data")
    for name in ("entry", "gold", "proxy", "kl", "better than", "worse than"):
        table.add_column(name, justify="left" if name == "entry" else "right")
    counts = against(found, "data")
    there = [x for x in found["entries"] if x["at"]["data"]]
    for x in sorted(there, key=lambda x: -x["at"]["data"]["gold"]["mean"]):
        measured = x["at"]["data"]
        numbers = [estimate(measured[name]) for name in ("gold", "proxy", "kl")]
        table.add_row(escape(named(x)), *numbers, *map(str, counts.get(x["name"], (0, 0))))
    for x in found["entries"]:
        if x["at"]["data"] is None:
            table.add_row(escape(x["name"]), "failed", "", "", "", "")
    return table
