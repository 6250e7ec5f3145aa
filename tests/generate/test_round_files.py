"""What is kept beside a checkpoint of a round, and of those that came before it."""

import pytest

from alignax.generate.rollout import Rollout
from alignax.generate.round_files import met_again, store, stored
from alignax.methods import DPO, RAFT, RRHF, RejectionSampling
from tests.generate.test_rounds import Script, best, made, met


def stored_groups(feed, position):
    """Of each part of what is kept beside a checkpoint: this round's, and what is met again."""
    return [len(part.examples) for part in stored(feed._folder / position["file"])]


@pytest.mark.parametrize(
    ("replay", "sizes"),
    # Each round keeps a group of each of two prompts; `worse` ones lose against the first round's.
    [("all", [[2], [2, 2], [2, 4], [2, 6]]), ("best", [[2], [2, 2], [2, 2], [2, 2]])],
)
def test_what_is_kept_to_be_met_again_is_a_group_a_prompt_where_the_best_is(
    tmp_path, replay, sizes
):
    worse = lambda drawing, place: [50 - 10 * drawing + place, 1]  # noqa: E731
    feed = made(tmp_path, RAFT(num_samples=2, refresh=1, epochs=2), Script(worse), batch_size=4,
                replay=replay)  # fmt: skip
    found = []
    for _ in sizes:
        feed.draw(None)
        found.append(stored_groups(feed, feed.position()))
    assert found == sizes


def test_where_each_round_is_better_nothing_of_earlier_ones_is_kept(tmp_path):
    feed = made(tmp_path, RAFT(num_samples=2, refresh=1, epochs=2), Script(best), batch_size=4,
                replay="best")  # fmt: skip
    for _ in range(3):
        feed.draw(None)
        assert stored_groups(feed, feed.position()) == [2]


def test_a_file_with_a_part_for_each_earlier_round_is_met_again_the_same(tmp_path):
    """As runs were kept that held all of their rounds, with what had lost already."""
    script = Script(lambda drawing, _: None)
    of_prompt = {1: (10, 20, 30, 5), 2: (40, 30, 20, 6)}  # in rounds 0 to 3
    script.tokens = lambda drawing, place: [of_prompt[script.asked[-1][place]][drawing], 1]
    settings = {"batch_size": 4, "replay": "best"}
    method = RAFT(num_samples=2, refresh=1, epochs=2)
    feed, parts = made(tmp_path, method, script, **settings), []
    for _ in range(3):
        met(feed)
        parts.append(feed._kept)
    position = feed.position()
    assert stored_groups(feed, position) == [2, 1]  # of the first prompt this round's is the best
    store(tmp_path / position["file"], [parts[2], *parts[:2]])
    assert stored_groups(feed, position) == [2, 2, 2]
    other = made(tmp_path, method, script, **settings)
    other.restore(position)
    assert stored_groups(other, other.position()) == [2, 1]
    assert met(feed)[0] == [30, 30, 40, 40]
    del script.asked[3:]
    assert met(other)[0] == [30, 30, 40, 40]


@pytest.mark.parametrize(
    ("method", "rollout", "expected"),
    [
        (RAFT(num_samples=2), {}, (0, 0)),
        # 10 updates in rounds of 2, of which 4 are earlier: 3 groups each, but 7 prompts. A prompt
        # of 5 tokens and a response of 8: 4 x 5 + 8 x (4 + 1 + 4), of sampled log-probabilities.
        (RejectionSampling(refresh=2), {"replay": "all"}, (12, 12 * 92)),
        (RejectionSampling(refresh=2), {}, (7, 7 * 92)),
        # Pairs, and the reference's log-probabilities: 4 x 5 + 16 x (4 + 1 + 4).
        (DPO(), {"replay": "all", "refresh": 2}, (12, 12 * 164)),
        (RRHF(), {"replay": "best", "refresh": 2, "num_samples": 3}, (7, 7 * (20 + 24 * 5))),
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_a_run_comes_to_hold_of_earlier_rounds(method, rollout, expected):
    settings = Rollout(max_new_tokens=8, **rollout)
    found = met_again(method, settings, groups=3, num_steps=10, prompts=7, longest=5)
    assert found == expected
