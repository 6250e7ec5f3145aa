"""What is written of the comparison is what its published numbers say."""

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from alignax.compare import markdown, results
from alignax.compare.analysis import findings
from benchmarks.published import beside, by_update

ROOT = pathlib.Path(__file__).parents[2]
RUNS = ROOT / "benchmarks" / "runs"
# A mean and its interval, as in 0.24 [0.02, 0.46]; one that is said of an entry, as in `dpo` (2.71.
INTERVAL = re.compile(r"(-?\d+\.\d+) \[(-?\d+\.\d+), (-?\d+\.\d+)\]")
MEAN = re.compile(r"`([^`]+)` \((-?\d+\.\d\d)\b")


def found_in(name: str) -> tuple[results.Results, dict[str, Any]]:
    read = results.read(RUNS / name)
    return read, findings(read, json.loads((RUNS / name / "made.json").read_text()))


@pytest.fixture(scope="module")
def tiny():
    return found_in("compare_tiny")


def estimates(found: Any) -> Iterator[tuple[float, float, float]]:
    """Every mean with an interval, at any depth."""
    if isinstance(found, dict):
        if isinstance(found.get("mean"), float) and "low" in found:
            yield found["mean"], found["low"], found["high"]
        for x in found.values():
            yield from estimates(x)
    elif isinstance(found, list):
        for x in found:
            yield from estimates(x)


def written(read: results.Results, found: dict[str, Any]) -> set[str]:
    """All intervals as a text may give them: with one or two decimals, and the other way round."""
    texts = {" ".join(x.split()) for row in beside(read) for x in row.split("|")}
    for mean, low, high in estimates(found):
        for m, a, b in ((mean, low, high), (-mean, -high, -low)):
            texts |= {f"{m:.{d}f} [{a:.{d}f}, {b:.{d}f}]" for d in (1, 2)}
    said = " ".join(check["found"] for check in found["checks"])
    texts |= {f"{m} [{a}, {b}]" for m, a, b in INTERVAL.findall(said)}
    return {text.replace("-0.00", "0.00") for text in texts}


def test_the_tables_are_those_of_the_published_numbers(tiny):
    read, found = tiny
    rows = [x for x in markdown.tables(found).splitlines() if x.startswith("|")]
    assert len(rows) > 80
    rows += [*by_update(read), *beside(read)]
    text = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    published = set(text.splitlines())
    assert [row for row in rows if row not in published] == []


def test_the_page_of_the_published_numbers_has_samples_of_every_entry(tiny):
    _, found = tiny
    for sample in found["samples"]:
        names = [answer["entry"] for answer in sample["answers"]]
        assert names[0] == "reference"
        assert len(names) > 30
        assert all(answer["text"] for answer in sample["answers"][:1])
    assert len(found["samples"]) == 24


def test_every_interval_in_the_advice_is_of_the_published_numbers(tiny):
    known = written(*tiny) | written(*found_in("compare_smollm2"))
    said = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    texts = [f"{m} [{a}, {b}]".replace("-0.00", "0.00") for m, a, b in INTERVAL.findall(said)]
    assert len(texts) > 30
    assert [text for text in texts if text not in known] == []


def test_every_mean_in_the_advice_is_that_of_its_entry(tiny):
    _, found = tiny
    means = {
        x["name"]: {f"{at['gold']['mean']:.2f}" for at in x["at"].values() if at}
        for x in found["entries"]
    }
    said = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    pairs = [(name, mean) for name, mean in MEAN.findall(said) if name in means]
    assert len(pairs) > 25
    assert [(name, mean) for name, mean in pairs if mean not in means[name]] == []
