"""Chat templates of strangers, rendered where they can do no harm: in a process of their own.

A template is a program. Jinja's sandbox keeps it from Python's insides, but not from asking for
all memory (`{{ 'a' * 10**12 }}`) or for ever (three loops within each other). So it is rendered by
`template_process`, which the operating system gives 512 MiB, no files and no further processes,
and which is ended when it does not answer.
"""

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 30.0  # for one conversation; a usual one takes less than a thousandth


class Told(NamedTuple):
    """What came of a template: a text, or an error and perhaps the line of the template."""

    text: str | None
    error: str = ""
    line: int | None = None


class Confined:
    """The process that renders, begun when first asked and again after it had to be ended.

    Threads may share it.

    Args:
        seconds: that it may take for one conversation.
    """

    def __init__(self, seconds: float = SECONDS):
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def render(self, template: str, variables: Mapping[str, Any]) -> Told:
        """The text of a conversation.

        Args:
            template: in Jinja.
            variables: what it is told, such as `messages`; anything that JSON can hold.
        """
        request = json.dumps({"template": template, "variables": variables}).encode() + b"\n"
        with self._lock:
            if self._process is None:
                # -P: modules beside the script are not the standard library's of the same name.
                script = str(Path(__file__).with_name("template_process.py"))
                self._process = subprocess.Popen(
                    [sys.executable, "-P", script],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C asks the run to stop, and is no affair of it
                )
            try:
                answer = self._ask(self._process, request)
            except OSError as error:
                self._end()
                return Told(None, str(error))
            except BaseException:  # Ctrl-C: the answer, unread, would be the next one's
                self._end()
                raise
        found = json.loads(answer)
        return Told(found.get("text"), found.get("error", ""), found.get("line"))

    def _ask(self, process: subprocess.Popen[bytes], request: bytes) -> bytes:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request)
        process.stdin.flush()
        until, parts = time.monotonic() + self._seconds, []
        while not parts or not parts[-1].endswith(b"\n"):
            left = max(0.0, until - time.monotonic())
            if not select.select([process.stdout], [], [], left)[0]:
                raise TimeoutError(f"it took longer than {self._seconds:g} seconds")
            parts.append(os.read(process.stdout.fileno(), 1 << 20))
            if not parts[-1]:
                raise ConnectionError("its process ended")
        return b"".join(parts)

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


TEMPLATES = Confined()
atexit.register(TEMPLATES.close)
