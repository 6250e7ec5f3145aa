"""Renders chat templates with little memory and no way to a file: run as a script, by `confined`.

One JSON object a line comes in (`template`, `variables`) and one goes out: `text`, or `error` with
the `line` of the template where that is known. The environment is the one that transformers renders
chat templates in.
"""

import codecs
import datetime
import functools
import json
import pprint
import resource
import sys
from typing import Any

import jinja2.constants
import jinja2.debug
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

# What a template may need and Jinja imports on first use; no file can be opened by then.
_NEEDED = (pprint, jinja2.constants, jinja2.debug, codecs.lookup("unicode-escape"))
MEMORY = 512 * 2**20  # bytes of address space
LONGEST = 64 * 2**20  # characters of a text


class Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant says; what is in it is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """A block with variables of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def refuse(message: str) -> None:
    """A template's own reason not to render a conversation."""
    raise jinja2.TemplateError(message)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is; Jinja's own filter writes it for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def now(form: str) -> str:
    """The time of day, as some templates tell the model."""
    return datetime.datetime.now().strftime(form)


@functools.lru_cache(maxsize=32)
def compiled(template: str) -> jinja2.Template:
    """A template, ready to render."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {"raise_exception": refuse, "strftime_now": now}
    return environment.from_string(template)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The text, or why there is none."""
    try:
        text = compiled(request["template"]).render(request["variables"])
        if len(text) > LONGEST:
            return {"error": f"a text of more than {LONGEST >> 20} million characters"}
        return {"text": text}
    except MemoryError:
        return {"error": f"it needs more than {MEMORY >> 20} MiB"}
    # Jinja's errors, with a template's own reason or the sandbox's, and those of any operation.
    except Exception as error:
        reason = str(error)[:1000] or type(error).__name__
        return {"error": reason, "line": getattr(error, "lineno", None)}


def main() -> None:
    """Answers until there are no more requests."""
    for limit, most in (("AS", MEMORY), ("NOFILE", 0), ("NPROC", 0), ("CORE", 0)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (most, most))
    for line in sys.stdin.buffer:
        try:
            found = json.dumps(answer(json.loads(line)))
        except MemoryError:
            found = json.dumps({"error": f"it needs more than {MEMORY >> 20} MiB"})
        sys.stdout.write(found + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
