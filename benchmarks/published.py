"""`python -m benchmarks.published RUN FOLDER`: a comparison's raw results, small enough to commit.

RUN is the output of `alignax compare`. FOLDER gets its numbers of every seed, step and prompt
without the texts, compressed, and what was compared and how it was made: `alignax report FOLDER`
makes tables and page of these again.
"""

import argparse
import gzip
import json
import pathlib
import shutil

from alignax.compare.report import MADE
from alignax.compare.results import DESCRIPTION, RESULTS
from alignax.data import json_lines

TEXTS = ("texts", "text_gold", "text_proxy")


def publish(run: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes the three files."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = json_lines.read(run / RESULTS)
    kept = [{k: x for k, x in line.items() if k not in TEXTS} for line in lines]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept)
    # No time in the file: the same results are the same bytes.
    (folder / f"{RESULTS}.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    for name in (DESCRIPTION, MADE):
        shutil.copyfile(run / name, folder / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    options = parser.parse_args()
    publish(options.run, options.folder)
