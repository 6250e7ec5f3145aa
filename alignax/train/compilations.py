"""Programs that JAX compiles: kept on disk between runs, and counted during one."""

import functools
import logging
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import jax

from alignax.core.axes import device_kind
from alignax.core.memory import give_back

# Of JAX's own events. Every program has the first, whether it was compiled or found on disk.
COMPILED = "/jax/core/compile/backend_compile_duration"
FOUND = "/jax/compilation_cache/cache_hits"

LOOK_AT_REGIONS = "xla_cpu_copy_insertion_use_region_analysis"
LEAST_SECONDS = 0.2  # a program that compiles faster is not worth a file
FREES_SECONDS = 0.05  # one that takes longer to compile, or to read, has memory to give back
LAST_REPEATABLE = 9.0  # compute capability: Hopper
SHOWN_SECONDS = 0.5  # and one that takes longer is named

log = logging.getLogger("alignax")


def keep_on_disk() -> None:
    """Has JAX keep the programs that it compiles, in the user's cache folder.

    For a process of its own, such as the command line: JAX's settings hold for the whole process.
    A folder given to JAX, as by JAX_COMPILATION_CACHE_DIR, stands; JAX_ENABLE_COMPILATION_CACHE=0
    turns keeping off. A user without a home has nothing kept.
    """
    given = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if given is not None:
        return
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # as in a container, under a number that no user has
        log.warning("compiled programs are not kept: the user has no home folder (HOME is not "
                    "set). XDG_CACHE_HOME names another.")  # fmt: skip
        return
    jax.config.update("jax_compilation_cache_dir", str(folder / "alignax" / "jax"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)


def keep_apart_by_names() -> None:
    """Has JAX find a program on disk only where its operations have the same names too.

    A profile goes by these names. By default JAX leaves them out when it looks, and might find a
    program of an earlier version, with the names that operations had there.
    """
    jax.config.update("jax_compilation_cache_include_metadata_in_key", True)


def update_options(*, traced: bool = False, same: bool = True) -> dict[str, Any] | None:
    """Options for `jax.jit` of an update, by the devices that are to run it.

    An update must give the same bits each time. On GPUs some kernels sum in the order in which
    threads happen to end: cuDNN's backward pass of attention, scatters. There are others that do
    not. That holds for one compiled program: XLA chooses kernels by timing them, and may choose
    others when it compiles anew. So it holds for as long as the program is found on disk.
    Not asked of GPUs later than Hopper, some of whose kernels XLA then refuses.

    On CPUs XLA copies what is donated and read again after something was written in its place, as
    an optimiser's averages are, unless it looks at when each array is last read. Results are the
    same to rounding.

    Call it with the mesh set: it goes by the mesh's devices.

    Args:
        same: whether all kernels of the update can give the same bits; of GPUs nothing is asked
            where one cannot.
        traced: operations are launched one by one, so that a profile knows them. On GPUs XLA has
            many launched as one.
    """
    kind = device_kind()
    if kind == "cpu":
        return {LOOK_AT_REGIONS: True} if _known(LOOK_AT_REGIONS) else None
    if not kind.startswith("NVIDIA"):
        return None
    capability = float(getattr(jax.local_devices()[0], "compute_capability", LAST_REPEATABLE))
    launched = {"xla_gpu_enable_command_buffer": ""} if traced else {}
    if not same or capability > LAST_REPEATABLE:
        return launched
    return {"xla_gpu_exclude_nondeterministic_ops": True} | launched


@functools.lru_cache
def _known(option: str) -> bool:
    """Whether this XLA has the option, which is for speed alone and may go."""
    try:
        jax.jit(lambda: 0, compiler_options={option: True}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


class Compilations:
    """Counts what JAX compiles while it is entered, and gives back the memory it took. Printable.

    Compiling an update takes some 200 MiB of the host's. They are free before the update first
    runs, and would else be held beside all that it needs.

    Example:
        >>> with Compilations() as compiled:
        ...     jax.jit(update)(state)
        >>> compiled.programs["update"]
        1

    Attributes:
        programs: how many were asked for under each function's name, found on disk or not.
        seconds: that they took, by the same names; reading from disk is counted, tracing is not.
        found: how many of all were found on disk.
    """

    def __init__(self) -> None:
        self.programs: Counter[str] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.found = 0
        self._before = (0, 0.0)

    def __enter__(self) -> "Compilations":
        jax.monitoring.register_event_duration_secs_listener(self._note_program)
        jax.monitoring.register_event_listener(self._note_found)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._note_program)
        jax.monitoring.unregister_event_listener(self._note_found)

    def _note_program(self, event: str, duration_secs: float, **about: str | int) -> None:
        if event == COMPILED:
            name = str(about.get("fun_name")).removeprefix("jit(").removesuffix(")")
            self.programs[name] += 1
            self.seconds[name] += duration_secs
            if duration_secs >= FREES_SECONDS:
                give_back()

    def _note_found(self, event: str, **_: str | int) -> None:
        self.found += event == FOUND

    def lap(self) -> dict[str, int | float]:
        """Programs and seconds since the last call, by the names they are logged under."""
        now = self.programs.total(), sum(self.seconds.values())
        before, self._before = self._before, now
        return {"programs_compiled": now[0] - before[0], "seconds_compiling": now[1] - before[1]}

    def __str__(self) -> str:
        count = self.programs.total()
        named = ", ".join(
            f"{name} {seconds:.1f} s" + (f" for {n}" if (n := self.programs[name]) > 1 else "")
            for name, seconds in sorted(self.seconds.items(), key=lambda item: -item[1])
            if seconds >= SHOWN_SECONDS
        )
        return (
            f"{count} program{'s' * (count != 1)} in {sum(self.seconds.values()):.1f} s "
            f"({self.found} found on disk)" + (f": {named}" if named else "")
        )
