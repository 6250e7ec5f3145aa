"""How long a run of the quickstart takes from the start of the process to its first update.

    python benchmarks/start_up.py

Counted: imports, settings, finding and checking prepared data, reading weights, finding reference
log-probabilities, the optimiser's state, reading the first arrays, tracing and compiling the update
until it is launched. Not counted: evaluation before the first update, and the update itself. The
first call prepares data, computes the reference and compiles; a second one finds all that on disk.
"""

import time

begin = time.perf_counter()  # before the imports, which are most of it

import contextlib  # noqa: E402
import os  # noqa: E402
import tempfile  # noqa: E402

from alignax import config, jobs  # noqa: E402
from alignax.overrides import override  # noqa: E402
from alignax.train import compilations  # noqa: E402

CONFIG = "configs/quickstart.py"


class Launched(BaseException):
    """The first update is under way."""


def main() -> None:
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
            step(*arrays)
            mark("the update traced, compiled or found, and launched")
            raise Launched

        return train(state, launch, feed, **settings | {"evaluate": None})

    jobs.train_loop = measured
    with tempfile.TemporaryDirectory() as output:
        experiment = override(config.load(CONFIG), ["--output-dir", output])
        with contextlib.suppress(Launched):
            jobs.train(experiment, quiet=True)
    print("seconds since the start, of wall and of processor:")
    for name, (wall, processor) in marks.items():
        print(f"{wall:7.2f} {processor:7.2f}  {name}")
    os._exit(0)  # nobody waits for the update


if __name__ == "__main__":
    main()
