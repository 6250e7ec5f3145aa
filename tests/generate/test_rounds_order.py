"""What differs from round to round: numbers of draws, orders of prompts and of updates, keys."""

import jax
import pytest

from alignax.generate import rounds
from alignax.methods import DAPO, RAFT, RSO
from tests.generate.test_rounds import Script, best, made, met

ONCE = RAFT(num_samples=2, refresh=1, epochs=1)


class Noting(Script):
    """Notes whose parameters draw, and by which numbers."""

    def __init__(self, *rest, **settings):
        super().__init__(*rest, **settings)
        self.numbers, self.params = [], []

    def __call__(self, params, prompts, numbers):
        self.numbers.append(list(numbers))
        self.params.append(params)
        return super().__call__(params, prompts, numbers)


def test_every_answer_of_a_run_is_drawn_by_a_number_of_its_own(tmp_path):
    script = Noting(best)
    feed = made(tmp_path, ONCE, script, batch_size=3)
    met(feed), met(feed)
    gone_on = made(tmp_path, ONCE, script, batch_size=3)
    gone_on.restore(feed.position())
    met(gone_on)
    assert script.numbers == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize(
    ("method", "whose"),
    [
        (ONCE, "policy"),
        (RSO(num_samples=2, num_accepted=2, objective="hinge", refresh=1), "reference"),
    ],
)
def test_samples_are_drawn_from_whom_the_method_says(tmp_path, monkeypatch, method, whose):
    script = Noting(best)
    feed = made(tmp_path, method, script, batch_size=2)
    monkeypatch.setattr(feed, "_reference", lambda: "reference")
    feed.draw("policy")
    assert script.params == [whose]


def test_every_epoch_has_all_prompts_in_an_order_of_its_own(tmp_path):
    script = Script(best)
    feed = made(tmp_path, ONCE, script, batch_size=8, prompts=8)
    for _ in range(3):
        met(feed)
    assert [sorted(asked) for asked in script.asked] == [list(range(1, 9))] * 3
    assert len({tuple(asked) for asked in script.asked}) == 3


def test_groups_are_met_in_another_order_in_every_pass_and_every_round(tmp_path):
    """Eight groups, one an update, passed over twice in each of two rounds."""
    method = RAFT(num_samples=2, refresh=16, epochs=2)
    feed = made(tmp_path, method, Script(best), batch_size=1, prompts=8)
    tokens = [token for _ in range(32) for token in met(feed)[0]]
    passes = [tuple(token % 10 for token in tokens[i : i + 8]) for i in range(0, 32, 8)]
    assert [sorted(order) for order in passes] == [list(range(8))] * 4
    assert len(set(passes)) == 4
    assert [token // 10 for token in tokens] == [1] * 16 + [2] * 16


def test_every_drawing_of_every_round_is_chosen_from_by_a_key_of_its_own(tmp_path, monkeypatch):
    keys, select = [], rounds.selected

    def noting(method, key, *rest):
        keys.append(tuple(jax.random.key_data(key).tolist()))
        return select(method, key, *rest)

    monkeypatch.setattr(rounds, "selected", noting)
    # One of four prompts teaches, so that a round takes two drawings.
    script = Script(lambda drawing, place: [1, 2] if place == 0 else [50, 50])
    feed = made(tmp_path, DAPO(num_samples=2, refresh=1), script, batch_size=2, prompts=4)
    met(feed), met(feed)
    assert len(keys) == len(set(keys)) == 4


def test_of_equally_good_answers_of_several_rounds_the_latest_is_met(tmp_path):
    feed = made(tmp_path, ONCE, Script(best), batch_size=2, sign=0.0, replay="best")
    assert [met(feed)[0] for _ in range(3)] == [[10, 11], [20, 21], [30, 31]]
