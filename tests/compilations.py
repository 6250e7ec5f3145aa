"""What JAX compiles, by its own public events: a function's cache may be emptied at any time."""

import contextlib
from collections.abc import Iterator

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def compilations(name: str) -> Iterator[list[str]]:
    """The list that a name is put in whenever a jitted function so called is compiled."""
    found: list[str] = []

    def note(event: str, seconds: float, **about) -> None:
        if event == COMPILED and about.get("fun_name") == f"jit({name})":
            found.append(name)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
