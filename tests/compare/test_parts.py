"""A part of a comparison shares finished runs with the whole, and leaves its page alone."""

import pytest

from alignax import cli
from alignax.compare import manage
from alignax.compare.settings import Part


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (Part(), ""),
        (Part(added=("mine:ENTRY",)), ""),
        (Part(only=("dpo", "best of 4"), seeds=4), "dpo-best-of-4-4-seeds"),
        (Part(claims=("own-rounds",)), "own-rounds"),
    ],
)
def test_a_part_is_named_by_what_it_is_of(part, name):
    assert part.name == name


def test_a_name_is_no_longer_than_a_folder_may_have():
    assert Part(only=("ÄÖ",)).name  # of no letter that a folder is named by
    names = {Part(only=("a",) * 400, seeds=seeds).name for seeds in (4, 8)}
    assert {len(name) for name in names} == {80}
    assert len(names) == 2


@pytest.mark.parametrize(
    ("commits", "now", "said"),
    [
        (["a"], "a", None),
        (["a"], None, None),  # of a wheel nobody knows
        ([], "b", None),
        (["a", "b"], "b", "runs of 2 commits: a, b"),
        (["a"], "b", "runs of 1 commit: a, and the code is that of b"),
    ],
)
def test_results_of_other_code_than_that_which_reports_them_are_told(commits, now, said):
    assert manage.of_other_commits(commits, now) == said


@pytest.mark.parametrize(
    ("options", "page"),
    [
        ([], "runs/c"),
        (["--add", "mine:ENTRY"], "runs/c"),
        (["--only", "dpo", "rrhf", "--seeds", "4"], "runs/c/parts/dpo-rrhf-4-seeds"),
        (["--claim", "hacked"], "runs/c/parts/hacked"),
        (["--only", "dpo", "--output", "here"], "here"),
    ],
)
def test_results_and_page_of_a_part_lie_in_a_folder_of_their_own(options, page, monkeypatch):
    asked = []
    monkeypatch.setattr(manage, "compare", lambda *given, **named: asked.append((given, named)))
    cli.main(["compare", "configs/c.py", *options])
    ((given, named),) = asked
    assert str(named["page"]) == page
    assert str(given[1]) == ("here" if page == "here" else "runs/c")
