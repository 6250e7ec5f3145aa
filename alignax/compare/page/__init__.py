"""The report of a comparison: findings in, one HTML page out, which needs nothing else.

Pictures are SVG and tables are HTML, both made here, so that the page says what it has to say
without JavaScript. The script adds sorting, answers to the pointer and the keys, and the browser of
samples. The page's own policy lets no request leave it and no script run but this one.
"""

import base64
import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from alignax.compare.page import charts, curves, intervals, league, words

_COSTS = {
    "flops": "Arithmetic, FLOP",
    "generated": "Tokens generated",
    "trained": "Tokens trained on",
    "peak_mib": "Peak memory, MiB",
}
_OVER_SHOWN = 8  # pictures of over-optimisation before the rest is folded away


def render(findings: Mapping[str, Any]) -> str:
    """The page, as text.

    Args:
        findings: what the analysis of a comparison made, as `findings.json` has it: plain JSON,
            None where something is unknown.

    Raises:
        ValueError: where a number is not finite, which JSON has no word for.
    """
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _asset("report.js")
    return environment.get_template("report.html").render(
        found=findings,
        budgets={b: name for b, name in words.BUDGETS.items() if league.measured(findings, b)},
        families=[f for f in words.FAMILIES if f in {e["family"] for e in findings["entries"]}],
        titles={e["name"]: e["title"] for e in findings["entries"]},
        costs=_COSTS,
        over_shown=_OVER_SHOWN,
        over={across: curves.optimisation(findings, across) for across in ("kl", "step")},
        reward_axes={b: intervals.rewards(findings, b) for b in words.BUDGETS},
        trial_axis=intervals.trials(findings),
        charts=charts,
        curves=curves,
        intervals=intervals,
        league=league,
        words=words,
        style=Markup(_asset("report.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=_as_json(findings),
    )


def _asset(name: str) -> str:
    return (importlib.resources.files(__name__) / "assets" / name).read_text(encoding="utf-8")


def _as_json(findings: Mapping[str, Any]) -> Markup:
    """JSON that is safe inside a script element, whatever the strings in it are."""
    text = json.dumps(findings, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return Markup(
        text.replace("<", "\\u003c")
    )  # nothing that could end the element, or open a comment
