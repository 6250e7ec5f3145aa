"""Several processes as one run: what all must do alike, and what one does for all.

Every process runs the same program on the same settings, and its devices are a part of one mesh.
Host code therefore takes the same decisions everywhere, from numbers that are the same everywhere:
an array is fetched whole by all, and where processes could see different things, one of them
decides. In a single process nothing of this costs anything.
"""

import contextlib
import hashlib
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from alignax.core.errors import BadInput

HEARTBEAT = 30  # seconds of silence until a process counts as lost and the others end
SAME_INTERRUPT = 1.0  # seconds within which a second SIGINT is the first one, passed on


def join(*, listens: bool = True) -> None:
    """Joins the other processes of the run; before anything else asks JAX for its devices.

    On TPU pods, under Slurm and Open MPI, JAX knows who they are. Elsewhere the environment says:
    JAX_COORDINATOR_ADDRESS (HOST:PORT of the first process), JAX_NUM_PROCESSES, JAX_PROCESS_ID.
    ALIGNAX_HEARTBEAT_SECONDS changes how soon a lost process is noticed.

    Args:
        listens: whether SIGTERM asks all to save and stop (`asked_to_stop`); else it ends the
            process that gets it, and the others soon.

    Raises:
        BadInput: where neither tells, or the others did not come.
    """
    jax.config.update("jax_enable_preemption_service", listens)
    try:
        count, number = (os.environ.get(f"JAX_{x}") for x in ("NUM_PROCESSES", "PROCESS_ID"))
        jax.distributed.initialize(
            num_processes=None if count is None else int(count),
            process_id=None if number is None else int(number),
            heartbeat_timeout_seconds=int(os.environ.get("ALIGNAX_HEARTBEAT_SECONDS", HEARTBEAT)),
        )
    except (ValueError, RuntimeError) as error:
        raise BadInput(
            "the other processes of the run",
            str(error).strip().splitlines()[0],
            "Set JAX_COORDINATOR_ADDRESS (HOST:PORT of the first), JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID in each process; or leave out --distributed for a single one.",
            where=f"process {os.environ.get('JAX_PROCESS_ID', '?')}",
        ) from error


@contextlib.contextmanager
def joined(*, listens: bool = True) -> Iterator[None]:
    """As `join`; all leave together, and an error in one process ends all of them soon.

    The others stand in the middle of an update and wait for this one. Leaving Python in order
    would wait for them in turn, so it is left at once, after the error has been printed.
    """
    join(listens=listens)
    try:
        yield
        meet("the end")  # JAX's own wait at the exit is for 300 seconds at most
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BadInput):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2 if isinstance(error, BadInput) else 1)


def is_first() -> bool:
    """Whether this process speaks and writes for all."""
    return jax.process_index() == 0


def fetch(tree: Any) -> Any:
    """The arrays of a tree whole, as NumPy's, in every process. All must call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)

    def whole(x: Any) -> Any:
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            return multihost_utils.process_allgather(x, tiled=True)
        return jax.device_get(x)

    return jax.tree.map(whole, tree)


def put(arrays: Any, place: jax.sharding.Sharding) -> Any:
    """Takes arrays to the devices; each process gives what its own devices hold."""
    if jax.process_count() == 1:
        return jax.device_put(arrays, place)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, place, lambda part, x=x: x[part]), arrays
    )


def agree(yes: bool) -> bool:
    """Whether all processes say yes. All must call it."""
    if jax.process_count() == 1:
        return yes
    return bool(np.all(multihost_utils.process_allgather(np.bool_(yes))))


def any_reason(reason: str | None) -> str | None:
    """A reason that a process has against something, in all of them; None where none has one.

    Cut to 300 bytes. All must call it.
    """
    if jax.process_count() == 1:
        return reason
    text = np.frombuffer((reason or "").encode()[:300].ljust(300, b"\0"), np.uint8)
    rows = multihost_utils.process_allgather(text)
    given = [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in np.asarray(rows)]
    return next(filter(None, given), None)


def same(text: str) -> bool:
    """Whether all processes give the same text. All must call it."""
    if jax.process_count() == 1:
        return True
    own = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    return agree(np.array_equal(own, told(own)))


def told(tree: Any) -> Any:
    """The first process's numbers, in every process; shapes are the same in all."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))


@contextlib.contextmanager
def listening() -> Iterator[list[signal.Signals]]:
    """The signals that have asked this process to save and stop, and have done nothing else.

    A second SIGINT is a KeyboardInterrupt at once, unless it comes with the first: programs that
    start others pass on what the terminal has sent to both. With several processes
    JAX listens to SIGTERM, because a notice that one of them gets is for all; SIGINT is passed on
    as that, and the list stays empty. In any thread but the main one, which alone may say what
    signals do, nothing is listened to.
    """
    asked: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    alone, interrupted = jax.process_count() == 1, math.inf

    def note(number: int, _: Any) -> None:
        nonlocal interrupted
        if number == signal.SIGINT:
            if time.monotonic() - interrupted > SAME_INTERRUPT:
                raise KeyboardInterrupt
            interrupted = min(interrupted, time.monotonic())
        if alone:
            asked.append(signal.Signals(number))
        else:
            signal.raise_signal(signal.SIGTERM)

    numbers = (signal.SIGINT, signal.SIGTERM) if alone else (signal.SIGINT,)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def asked_to_stop(step: int, here: bool) -> bool:
    """Whether to save and stop after this update: at the same one in every process.

    Args:
        step: counts up by one from call to call.
        here: whether this process was asked; with several, JAX knows.
    """
    if jax.process_count() == 1:
        return here
    return multihost_utils.reached_preemption_sync_point(step)


def meet(where: str) -> None:
    """Waits for all processes. All must call it, with the same words."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
    """Lets the first process do some work alone, whose files the others then may find."""
    if not is_first():
        meet("after the first process")
    try:
        yield
    finally:
        if is_first():
            meet("after the first process")
