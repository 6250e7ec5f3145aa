"""The report as text: what it says without a script, and what it never does."""

import base64
import copy
import hashlib
import html.parser
import json
import re

import pytest

from alignax.compare.page import render, words
from tests.compare.made_up import HOSTILE, findings

VOID = {"meta", "link", "input", "br", "img"}


class Page(html.parser.HTMLParser):
    """What a browser would make of a page: its elements, their nesting, the text that is read."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in self.inside:
            self.inside[tag].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} ends at {self.getpos()} and is not the last begun"

    def handle_data(self, data):
        if self.open and self.open[-1] in self.inside:
            self.inside[self.open[-1]][-1] += data
        else:
            self.text += data

    def values(self, name: str) -> list[str | None]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module")
def made() -> dict:
    return findings()


@pytest.fixture(scope="module")
def text(made) -> str:
    return render(made)


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def test_says_every_entry_claim_and_check_without_a_script(page, made):
    for entry in made["entries"]:
        assert entry["title"] in page.text
    for claim in made["claims"]:
        for part in ("says", "source", "verdict", "because", "command"):
            assert claim[part] in page.text
    for check in made["checks"]:
        assert check["name"] in page.text
        assert check["found"] in page.text
    for limit in made["world"]["limits"]:
        assert limit in page.text
    assert made["made"]["command"] in page.text
    assert "failed: loss was not finite at step 12" in page.text
    assert "was not measured at this budget" in page.text


def test_a_limit_is_counted_beside_the_checks_and_not_among_them(page, text):
    assert "1 of 2 passed; limits stated: 1." in page.text
    assert '<h3>Rare failures <b class="verdict ">limit</b></h3>' in text


def test_elements_nest_and_names_that_are_referred_to_exist_once(page):
    assert page.open == []
    names = page.values("id")
    assert len(names) == len(set(names))
    referred = [href[1:] for href in page.values("href") if href.startswith("#")]
    referred += page.values("for") + page.values("aria-labelledby")
    assert set(referred) <= set(names)


def test_asks_nothing_of_the_network(page, text):
    assert page.values("src") == []
    assert all(href.startswith(("#", "data:")) for href in page.values("href"))
    assert not re.search(r"@import|url\(|https?://|fetch\(|XMLHttp|WebSocket|import\(", text)
    policy = next(p for p in page.values("content") if p.startswith("default-src"))
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_its_policy_lets_the_one_script_run_and_no_other(page):
    kinds = [attributes.get("type") for tag, attributes in page.elements if tag == "script"]
    assert kinds == ["application/json", None]
    digest = hashlib.sha256(page.inside["script"][1].encode()).digest()
    policy = next(p for p in page.values("content") if p.startswith("default-src"))
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}'" in policy


def _with_hostile_text(value):
    """Every text that a person or a model may have written becomes the hostile one."""
    written = {
        *("title", "command", "date", "hardware", "git", "model", "gold", "proxy", "paper", "says"),
        *("learns_from", "failed", "source", "because", "label", "unit", "found", "prompt", "text"),
    }
    if isinstance(value, dict):
        return {
            k: HOSTILE if k in written and isinstance(v, str) else _with_hostile_text(v)
            for k, v in value.items()
        }
    return [_with_hostile_text(v) for v in value] if isinstance(value, list) else value


def test_hostile_text_stays_text(made):
    hostile = _with_hostile_text(made)
    hostile["entries"][0]["setting"] = {HOSTILE: HOSTILE}
    hostile["made"]["versions"] = {HOSTILE: HOSTILE}
    page = Page(render(hostile))
    assert [tag for tag, _ in page.elements if tag in ("img", "iframe", "object")] == []
    assert not [name for _, attributes in page.elements for name in attributes if name[:2] == "on"]
    assert sum(tag == "script" for tag, _ in page.elements) == 2
    assert page.text.count(HOSTILE) > 40
    assert json.loads(page.inside["script"][0]) == hostile


def test_findings_in_the_page_are_those_it_was_given(page, made):
    assert json.loads(page.inside["script"][0]) == made


def _without(value):
    """What was measured, with all unknown that may be."""
    known = {"gold", "seeds", "step"}
    return {k: v if k in known else None for k, v in value.items()} if value else value


def test_what_is_unknown_is_a_dash(made):
    bare = copy.deepcopy(made)
    for entry in bare["entries"]:
        entry["at"] = {budget: _without(at) for budget, at in entry["at"].items()}
        entry |= {"paper": None, "tried": [], "curve": []}
    bare["reference"] = dict.fromkeys(bare["reference"])
    bare["world"] |= {"proxy_accuracy": None, "label_noise": None, "pair_noise": None,
                      "parameters": None}  # fmt: skip
    bare["made"] |= {"date": None, "seconds": None, "git": None, "hardware": None}
    for pair in bare["pairs"]["data"]:
        pair |= {"p": None, "p_holm": None, "detectable": None}
    page = Page(render(bare))
    assert words.MISSING in page.text
    assert "None" not in page.text
    assert "nan" not in page.text


def test_a_gold_reward_of_one_seed_has_no_interval():
    one = findings(count=7)
    for entry in one["entries"]:
        for at in filter(None, entry["at"].values()):
            at["gold"] |= {"mean": 0.5, "low": None, "high": None}
    assert "0.500 [" not in render(one)


def test_an_empty_comparison_says_that_there_is_nothing(made):
    empty = copy.deepcopy(made) | {"entries": [], "claims": [], "checks": [], "samples": []}
    empty["pairs"] = {"data": [], "compute": []}
    empty["frontier"] = {"optimum": [], "best_of_n": []}
    page = Page(render(empty))
    for said in ("Nothing was measured", "No claim was put", "No check was run", "No samples"):
        assert said in page.text


def test_one_budget_needs_no_switch(page):
    one = findings(count=7)
    for entry in one["entries"]:
        entry["at"]["compute"] = None
    assert "budget" not in Page(render(one)).values("data-switch")
    assert "budget" in page.values("data-switch")


def test_a_number_that_is_not_finite_is_refused(made):
    broken = copy.deepcopy(made)
    broken["world"]["label_noise"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        render(broken)
