"""The report in a browser: what its script does, at a desk, on a telephone and by keyboard."""

import json
import pathlib

import pytest

from alignax.compare.page import render
from alignax.compare.report import FINDINGS
from alignax.compare.report import report as make_report
from benchmarks.report_pictures import browser as installed
from tests.compare.made_up import HOSTILE, findings

playwright = pytest.importorskip("playwright.sync_api", reason="drives a browser: playwright")
pytestmark = pytest.mark.skipif(
    installed() is None, reason="drives a browser: no Chromium or Chrome is installed"
)


ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page as a file; one prompt, one answer and one title would run a script if they could."""
    made = findings()
    made["samples"][0]["prompt"] = made["samples"][0]["answers"][0]["text"] = HOSTILE
    made["entries"][0]["title"] = HOSTILE
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(made), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The findings of the published comparison, and their page as a file: 36 entries, 23 claims."""
    output = tmp_path_factory.mktemp("published")
    page = make_report(ROOT / "benchmarks" / "runs" / "compare_tiny", output)
    return json.loads((output / FINDINGS).read_text("utf-8")), page.as_uri()


@pytest.fixture(scope="module")
def chromium():
    with (
        playwright.sync_playwright() as driver,
        driver.chromium.launch(executable_path=installed()) as browser,
    ):
        yield browser


@pytest.fixture
def open_page(chromium, report):
    """Opens the report in a window of its own; at the end nothing may have gone wrong or out."""
    said, asked, opened_pages, contexts = [], [], {report}, []

    def opened(width: int = 1280, address: str = report, **options):
        opened_pages.add(address)
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert set(asked) - {"data:,"} <= opened_pages


def column(page, table: str, number: int) -> list[str]:
    cells = page.locator(f"{table} tbody tr > :nth-child({number})")
    return [text.strip() for text in cells.all_inner_texts()]


LEAGUE = "table.league[data-budget=data]"


def test_hostile_text_is_shown_and_does_nothing(open_page):
    page = open_page()
    assert page.locator("#asked").inner_text() == HOSTILE
    assert HOSTILE in page.locator(LEAGUE).inner_text()
    assert page.title() == findings()["title"]
    assert page.locator("img").count() == 0


def test_theme_begins_as_the_system_has_it_and_is_kept(open_page):
    page = open_page(color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.get_by_role("button", name="Use the light theme").click()
    light = page.evaluate(paper)
    assert light != dark
    page.reload()
    assert page.evaluate(paper) == light
    page.get_by_role("button", name="Use the dark theme").click()
    assert page.evaluate(paper) == dark


def test_a_heading_sorts_its_column_both_ways(open_page):
    page = open_page()
    heading = page.locator(f"{LEAGUE} th", has_text="Gold reward")
    assert heading.get_attribute("aria-sort") == "descending"  # as the page comes
    down = column(page, LEAGUE, 3)
    means = [float(text.split()[0].replace("\N{MINUS SIGN}", "-")) for text in down]
    assert means == sorted(means, reverse=True)
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert column(page, LEAGUE, 3) == down[::-1]
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert column(page, LEAGUE, 3) == down
    proxy = page.locator(f"{LEAGUE} th", has_text="Proxy")
    assert proxy.get_attribute("aria-sort") is None
    proxy.get_by_role("button").click()
    assert proxy.get_attribute("aria-sort") == "descending"
    assert heading.get_attribute("aria-sort") is None


def test_what_is_unknown_stays_last_however_it_is_sorted(open_page):
    page = open_page()
    button = page.locator(f"{LEAGUE} th", has_text="Length").get_by_role("button")
    for _ in range(2):
        button.click()
        assert column(page, LEAGUE, 8)[-1] == "\N{EN DASH}"


def test_the_budget_switch_changes_every_number_that_depends_on_it(open_page):
    page = open_page()
    compute = "table.league[data-budget=compute]"
    assert page.locator(LEAGUE).is_visible()
    assert page.locator(compute).is_hidden()
    before = column(page, LEAGUE, 3)
    page.get_by_role("button", name="Equal compute").click()
    assert page.locator(LEAGUE).is_hidden()
    assert set(column(page, compute, 3)).isdisjoint(before)
    assert page.locator("#frontier figure:visible").count() == 1
    assert page.locator("#frontier figcaption:visible").inner_text().startswith("Equal compute")


def test_verdicts_are_against_the_chosen_entry_and_have_its_sign(open_page):
    page = open_page()
    page.get_by_label("Against", exact=True).select_option("rloo")
    made = findings()
    for row in page.locator(f"{LEAGUE} tbody tr").all():
        name = row.get_attribute("data-entry")
        found = row.locator(".against").inner_text()
        for pair in made["pairs"]["data"]:
            if {pair["a"], pair["b"]} == {name, "rloo"}:
                sign = 1 if pair["a"] == name else -1
                mean = f"{sign * pair['difference']['mean']:.3f}".replace("-", "\N{MINUS SIGN}")
                assert found.startswith(mean)
                loses = {"better": "worse", "worse": "better"}.get(pair["verdict"], "inconclusive")
                assert (pair["verdict"] if sign == 1 else loses) in found
        assert bool(found) == (name != "rloo")


def test_samples_of_a_searched_prompt_stand_side_by_side(open_page):
    page = open_page()
    page.get_by_label("Search prompts and answers").fill("WHALE")
    assert page.locator("#count").inner_text() == "1 of 8 prompts"
    whale = next(s for s in findings()["samples"] if "whale" in s["prompt"])
    assert page.locator("#asked").inner_text() == whale["prompt"]
    page.get_by_label("Entry of answer 1").select_option("dpo")
    page.get_by_label("Entry of answer 2").select_option("rloo")
    for name, card in zip(("dpo", "rloo"), page.locator(".answer").all(), strict=False):
        answer = next(a for a in whale["answers"] if a["entry"] == name)
        assert card.locator(".text").inner_text() == answer["text"]
        gold = f"gold {answer['gold']:.3f}".replace("-", "\N{MINUS SIGN}")
        assert card.locator(".scores").inner_text().startswith(gold)
    page.get_by_role("button", name="Add an entry").click()
    assert page.locator(".answer").count() == 4


def test_a_family_that_is_unchecked_is_gone_from_pictures_and_tables(open_page):
    page = open_page()
    online = page.locator(f"{LEAGUE} tbody tr[data-family=online]")
    assert online.first.is_visible()
    page.get_by_role("checkbox", name="online").uncheck()
    assert page.locator("[data-family=online]:visible").count() == 0
    assert page.locator("[data-family=offline]:visible").count() > 0


def test_every_control_is_reached_by_the_tab_key(open_page):
    page = open_page()
    reached = []
    for _ in range(150):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")
        )
        if reached[-1] == "prompt":
            break
    assert reached[0] == "Skip to the findings"
    for control in ("Equal data", "Equal compute", "theme", "against", "By update", "Diversity"):
        assert control in reached
    assert {"search", "prompt"} <= set(reached)


def test_arrow_keys_go_from_mark_to_mark_and_each_says_what_it_is(open_page):
    page = open_page()
    page.locator("#frontier figure:visible .marks .point[tabindex='0']").first.focus()
    first = page.locator("#tip").inner_text()
    page.keyboard.press("ArrowRight")
    second = page.locator("#tip").inner_text()
    assert first != second
    for said in (first, second):
        assert "gold" in said
        assert "KL" in said
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_the_crosses_of_best_of_n_are_a_stop_of_their_own_and_so_are_the_entries(open_page):
    page = open_page()
    groups = page.locator("#frontier figure:visible svg:visible .marks").all()
    assert len(groups) == 2
    for group, said in zip(groups, ("best of ", "gold"), strict=True):
        group.locator(".point[tabindex='0']").focus()
        assert said in page.locator("#tip").inner_text()


def test_a_picture_keeps_its_stop_where_the_family_of_the_first_mark_is_left_out(open_page):
    page = open_page()
    marks = page.locator("#frontier figure:visible svg:visible .marks").last
    family = marks.locator(".point[tabindex='0']").get_attribute("data-family")
    page.locator(f"[data-only='{family}']").uncheck()
    assert marks.locator(".point[tabindex='0']:visible").count() == 1
    assert marks.locator(".point[tabindex='0']").count() == 1


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_never_scrolls_sideways(open_page, width):
    page = open_page(width=width)
    for folded in page.locator("details > summary").all():
        if folded.is_visible():
            folded.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_a_script_both_budgets_are_there_to_read(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator("table.league:visible").count() == 2
    assert page.locator("#frontier figure:visible").count() == 2
    assert page.locator(".bar").is_hidden()


# --- The published comparison, which is what readers open


@pytest.mark.parametrize("width", [360, 1280])
def test_the_published_page_never_scrolls_sideways(open_page, published, width):
    page = open_page(width, published[1])
    for folded in page.locator("details > summary").all():
        if folded.is_visible():
            folded.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_published_league_has_every_entry_by_gold_reward(open_page, published):
    found, address = published
    page = open_page(address=address)
    gold = {x["name"]: x["at"]["data"]["gold"]["mean"] for x in found["entries"] if x["at"]["data"]}
    rows = page.locator(f"{LEAGUE} tbody tr").all()
    names = [x for x in (row.get_attribute("data-entry") for row in rows) if x in gold]
    assert len(names) == len(gold) > 30
    assert [gold[x] for x in names] == sorted(gold.values(), reverse=True)


def test_every_published_claim_has_its_verdict_and_its_command(open_page, published):
    found, address = published
    text = open_page(address=address).locator("#claims").inner_text()
    for claim in found["claims"]:
        assert claim["says"] in text
    assert len(found["claims"]) >= 20


def test_published_answers_of_two_methods_stand_side_by_side(open_page, published):
    found, address = published
    page = open_page(address=address)
    asked = found["samples"][0]
    assert page.locator("#asked").inner_text() == asked["prompt"]
    page.get_by_label("Entry of answer 1").select_option("dpo")
    page.get_by_label("Entry of answer 2").select_option("ppo")
    for name, card in zip(("dpo", "ppo"), page.locator(".answer").all(), strict=False):
        answer = next(a for a in asked["answers"] if a["entry"] == name)
        assert " ".join(card.locator(".text").inner_text().split()) == " ".join(
            answer["text"].split()
        )
