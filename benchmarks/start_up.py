"""How long a run takes from the start of the process to its first update.

    python -m benchmarks start_up            # a cold start and some warm ones, into RESULTS.md
    python benchmarks/start_up.py [CONFIG]   # one of them, with what is on disk; the quickstart

Counted: imports, settings, finding and checking prepared data, reading weights, finding reference
log-probabilities, the optimiser's state, reading the first arrays, tracing and compiling the update
until it is launched, and that update itself. Not counted: evaluation before the first update. The
first call prepares data, computes the reference and compiles; a second one finds all that on disk.

Behind CONFIG come options of the experiment, as for `alignax train`. Run by itself it has the
system's small pages unless GLIBC_TUNABLES says otherwise.
"""

import time

begin = time.perf_counter()  # before the imports, which are most of it

import contextlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402

import jax  # noqa: E402

from alignax import config, jobs  # noqa: E402
from alignax.overrides import override  # noqa: E402
from alignax.train import compilations  # noqa: E402

CONFIG = "configs/quickstart.py"


class Updated(BaseException):
    """The first update is done."""


def main(path: str, *options: str) -> None:
    marks: dict[str, tuple[float, float]] = {}

    def mark(name: str) -> None:
        marks[name] = time.perf_counter() - begin, time.process_time()

    mark("imports")
    compilations.keep_on_disk()
    train = jobs.train_loop

    def measured(state, step, feed, **settings):
        mark("data, weights, reference, state")

        def launch(*arrays):
            mark("first arrays")
            found = step(*arrays)
            mark("the update traced, compiled or found, and launched")
            jax.block_until_ready(found)
            mark("the first update is done")
            raise Updated

        return train(state, launch, feed, **settings | {"evaluate": None})

    jobs.train_loop = measured
    with tempfile.TemporaryDirectory() as output:
        experiment = override(config.load(path), ["--output-dir", output, *options])
        with contextlib.suppress(Updated):
            jobs.train(experiment, quiet=True)
    print("seconds since the start, of wall and of processor:")
    for name, (wall, processor) in marks.items():
        print(f"{wall:7.2f} {processor:7.2f}  {name}")
    whole = [wall for wall, _ in marks.values()][-1]
    found = {"seconds": [whole], "marks": marks, "versions": {"jax": jax.__version__}}
    print(json.dumps(found), flush=True)
    os._exit(0)  # nobody waits for the threads that read ahead


if __name__ == "__main__":
    main(*(sys.argv[1:] or [CONFIG]))
