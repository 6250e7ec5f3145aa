"""What benchmarks/RESULTS.md says of the comparison is what its published numbers say."""

import json
import pathlib

from alignax.compare import markdown, results
from alignax.compare.analysis import findings
from benchmarks.published import beside, by_update

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


def test_the_tables_are_those_of_the_published_numbers():
    folder = BENCHMARKS / "runs" / "compare_tiny"
    read = results.read(folder)
    found = findings(read, json.loads((folder / "made.json").read_text()))
    rows = [x for x in markdown.tables(found).splitlines() if x.startswith("|")]
    assert len(rows) > 80
    rows += [*by_update(read), *beside(read)]
    published = set((BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8").splitlines())
    assert [row for row in rows if row not in published] == []
