"""Rounds by themselves: what is drawn anew, what is met again, where a failure leaves them.

Answers come from a script, and nothing is trained.
"""

import dataclasses

import jax
import numpy as np
import pytest

from alignax import feeds
from alignax.data.bad_rows import Tally
from alignax.data.chat import Renderer
from alignax.data.pipeline import DrawFailed
from alignax.data.prompts import Prompts
from alignax.data.sources import Report
from alignax.generate import rounds
from alignax.generate.drawing import Answered, apart
from alignax.generate.reward_functions import Function
from alignax.generate.rewards import Rewards
from alignax.generate.rollout import Rollout
from alignax.generate.server import ServerFailed
from alignax.methods import DAPO, GRPO, KTO, PPO, RAFT, RRHF
from tests.tiny import chatml_tokenizer

LOST = ServerFailed("an answer", "none", "Start it.")


class Script:
    """Samples of one token: `tokens(drawing, place in it)` for each prompt. A drawing may fail."""

    def __init__(self, tokens, *, ended=True, logprobs=0.0, failing=()):
        self.tokens, self.ended, self.logprobs = tokens, ended, logprobs
        self.asked, self.failing = [], set(failing)

    def __call__(self, params, prompts, numbers):
        drawing = len(self.asked)
        if drawing in self.failing:
            self.failing.remove(drawing)
            raise LOST
        self.asked.append([int(prompt[0]) for prompt in prompts])
        tokens = np.array([self.tokens(drawing, i) for i in range(len(prompts))], np.int32)
        numbers = [np.broadcast_to(x, tokens.shape) for x in (self.ended, self.logprobs)]
        return Answered(
            tokens[..., None], np.ones(tokens.shape, np.int32),
            numbers[0].astype(bool), numbers[1].astype(np.float32)[..., None],
        )  # fmt: skip


def made(folder, method, answer, *, batch_size, prompts=2, sign=1.0, look=None, **rollout):
    """Rounds that are paid the number of a token, or its negative."""

    def reward(completion_ids, **_):
        return [sign * ids[0] for ids in completion_ids]

    report = Report(
        source="f", split="train", form="prompt", columns=("prompt",), ignored=(), rows=prompts,
        records=prompts, dropped=Tally(), left_out=Tally(), repeated_prompts=0,
    )  # fmt: skip
    numbers = range(1, prompts + 1)
    return rounds.Rounds(
        method=method,
        settings=Rollout(
            rewards=Rewards(parts=(Function(function=reward),)), max_new_tokens=1, **rollout
        ),
        prompts=Prompts(
            [f"prompt {i}" for i in numbers], [np.array([i], np.int32) for i in numbers], {},
            [f"f:{i}" for i in numbers], report, Tally(),
        ),
        renderer=Renderer(tokenizer=chatml_tokenizer(), template="none"),
        answer=answer,
        look=look or (lambda params, examples: {}),
        reference=lambda: None,
        decode=lambda ids: [" ".join(map(str, one)) for one in ids],
        batch_size=batch_size,
        seed=0,
        folder=folder,
    )  # fmt: skip


def met(feed):
    """The sampled tokens that the next update learns from, and what is said of the drawing."""
    (batch, _), drawn = feed.draw(None)
    return sorted(batch.responses[batch.mask].tolist()), drawn.metrics


def best(drawing, place):
    """Of two samples the first is kept: 10, 11 in the first drawing, 20, 21 in the second."""
    return [10 * (drawing + 1) + place, 1]


@pytest.mark.parametrize(
    ("replay", "second"), [("none", [20, 20, 21, 21]), ("all", [10, 11, 20, 21])]
)
def test_a_round_meets_what_earlier_ones_kept_where_it_is_replayed(tmp_path, replay, second):
    method = RAFT(num_samples=2, refresh=1, epochs=2)
    feed = made(tmp_path, method, Script(best), batch_size=4, replay=replay)
    assert [met(feed)[0] for _ in range(2)] == [[10, 10, 11, 11], second]


@pytest.mark.parametrize(("missing_end", "kept"), [(0.0, 7), (1.0, 7), (3.0, 5)])
def test_a_response_that_was_cut_is_worth_less_by_what_a_missing_end_costs(
    tmp_path, missing_end, kept
):
    """Of 5, which ended, and 7, which was cut: 7, 7 - 1 = 6, and 7 - 3 = 4."""
    script = Script(lambda drawing, place: [5, 7], ended=[True, False])
    method = RAFT(num_samples=2, refresh=1, epochs=1)
    feed = made(tmp_path, method, script, batch_size=2, missing_end=missing_end)
    assert met(feed)[0] == [kept, kept]


def test_a_cut_tells_apart_what_rewards_do_not_before_dapo_leaves_groups_out(tmp_path):
    script = Script(lambda drawing, place: [5, 5], ended=[True, False])
    method = DAPO(num_samples=2)
    with pytest.raises(DrawFailed):  # all groups are of equal rewards
        made(tmp_path, method, script, batch_size=2, max_draws=1).draw(None)
    feed = made(tmp_path, method, script, batch_size=2, max_draws=1, missing_end=1.0)
    assert met(feed)[0] == [5, 5, 5, 5]


def test_equal_rewards_are_equal_though_their_mean_is_rounded(tmp_path):
    """Seven rewards of 0.1, whose mean in float32 is 0.10000001."""
    script = Script(lambda drawing, place: [1] * 7, ended=[True] * 7)
    feed = made(tmp_path, GRPO(num_samples=7), script, batch_size=2, sign=0.1)
    assert met(feed)[1]["frac_reward_zero_std"] == 1.0


def test_labels_are_drawn_for_two_prompts_at_least_for_each_needs_an_answer_to_another(tmp_path):
    def look(params, examples):
        return {"ref_logprobs": [np.zeros(len(e.responses), np.float32) for e in examples]}

    script = Script(best)
    feed = made(tmp_path, KTO(), script, batch_size=2, look=look, num_samples=2)
    feed.draw(None)  # two labels, which the samples of one prompt would give
    assert [len(asked) for asked in script.asked] == [2]


def test_a_pool_larger_than_a_round_is_met_in_part_and_nothing_twice(tmp_path):
    method = RAFT(num_samples=2, refresh=1, epochs=2)
    feed = made(tmp_path, method, Script(best), batch_size=4, replay="all")
    found = [met(feed)[0] for _ in range(4)]
    for number, tokens in enumerate(found[1:], 2):
        assert len(set(tokens)) == 4
        assert set(tokens) <= {10 * i + j for i in range(1, number + 1) for j in (0, 1)}


def test_a_response_that_only_fills_a_list_does_not_make_it_the_best(tmp_path):
    """All rewards are negative, a masked third sample fills each list with a score of 0."""
    script = Script(lambda drawing, _: [2 * drawing + 1, 2 * drawing + 2, 9],
                    ended=[True, True, False])  # fmt: skip
    feed = made(tmp_path, RRHF(), script, batch_size=2, sign=-1.0, num_samples=3,
                truncated="mask", replay="best")  # fmt: skip
    # Rewards -1 and -2 in the first round, -3 and -4 in the second.
    assert [met(feed)[0] for _ in range(2)] == [[1, 1, 2, 2]] * 2


def one_of_them_teaches(drawing, place):
    """The samples of the first prompt are worth more and less, all others the same."""
    return [2 * drawing + 1, 2 * drawing + 2] if place == 0 else [50, 50]


def test_prompts_that_teach_nothing_are_made_up_for_by_the_next_of_the_stream(tmp_path):
    script = Script(one_of_them_teaches)
    feed = made(tmp_path, DAPO(num_samples=2, refresh=1), script, batch_size=2, prompts=4)
    tokens, metrics = met(feed)
    assert tokens == [1, 2, 3, 4]
    assert sorted(x for drawing in script.asked for x in drawing) == [1, 2, 3, 4]
    counts = {"prompts_drawn": 4.0, "groups_kept": 2.0, "groups_dropped": 2.0}
    assert counts.items() <= metrics.items()


def test_a_run_whose_prompts_teach_nothing_goes_on_with_more_drawings(tmp_path):
    method, settings = DAPO(num_samples=2, refresh=1), {"batch_size": 2, "prompts": 4}
    alike = Script(lambda drawing, place: [50, 50])
    feed = made(tmp_path, method, alike, max_draws=1, **settings)
    with pytest.raises(DrawFailed, match="none in 1 drawings of 2 prompts: ") as error:
        feed.draw(None)
    assert str(error.value).endswith(
        "\n    Run again with a higher rollout.max_draws to go on. Or give prompts that are "
        "sometimes answered well, more samples, or a finer reward: to another run, which may begin "
        "from what `alignax export` writes of this one."
    )
    later = Script(lambda drawing, place: [place + 1, place + 3] if drawing else [50, 50])
    more = made(tmp_path, method, later, max_draws=2, **settings)
    more.restore(feed.position())
    assert met(more)[0] == [1, 2, 3, 4]
    assert later.asked[0] == alike.asked[0]  # and so are the next ones those of an unbroken run


def test_what_a_rounds_rows_hold_beside_its_tokens_is_said(tmp_path):
    feed = made(tmp_path, DAPO(num_samples=2, refresh=1), Script(one_of_them_teaches),
                batch_size=2, prompts=4)  # fmt: skip
    (_, layout), drawn = feed.draw(None)
    # Two groups, each a prompt and two responses of a token.
    assert drawn.metrics["padding"] == pytest.approx(1 - 6 / layout.tokens.size)


def test_a_round_of_too_few_groups_has_fewer_updates_none_of_them_empty_and_says_so(
    tmp_path, caplog
):
    script = Script(one_of_them_teaches)
    method = DAPO(num_samples=2, refresh=4)
    feed = made(tmp_path, method, script, batch_size=2, prompts=8, max_draws=2)
    # Of 8 groups that 4 updates want there are 2, of one drawing each.
    assert [met(feed)[0] for _ in range(2)] in ([[1, 2], [3, 4]], [[3, 4], [1, 2]])
    assert len(script.asked) == 2
    assert caplog.messages == [
        "round 0: 2 of 8 groups after rollout.max_draws (2) drawings of 8 prompts, so its updates "
        "are smaller or fewer; dropped: 14 nothing to learn: rewards alike, or none "
        f"({', '.join(f'f:{x}' for x in script.asked[0][1:4])}, ...)"
    ]
    stopped = made(tmp_path, method, script, batch_size=2, prompts=8, max_draws=2)
    stopped.restore(feed.position())
    assert met(feed)[0] in ([5, 6], [7, 8])
    assert met(stopped)[0] in ([9, 10], [11, 12])
    assert stopped.position()["round"] == feed.position()["round"] == 1


def test_a_drawing_that_fails_leaves_the_position_and_is_drawn_again_the_same(tmp_path):
    method, settings = RAFT(num_samples=2, refresh=1, epochs=2), {"batch_size": 4, "replay": "all"}
    script, unbroken = Script(best, failing=[1]), Script(best)
    feed = made(tmp_path / "broken", method, script, **settings)
    met(feed)
    before = feed.position()
    with pytest.raises(ServerFailed):
        feed.draw(None)
    assert feed.position() == before
    other = made(tmp_path / "unbroken", method, unbroken, **settings)
    met(other)
    assert [met(feed)[0] for _ in range(2)] == [met(other)[0] for _ in range(2)]
    assert script.asked == unbroken.asked


def test_selecting_shares_no_key_with_the_draws_of_any_prompt(tmp_path, monkeypatch):
    keys, select = [], rounds.selected

    def noting(method, key, *rest):
        keys.append(jax.random.key_data(key).tolist())
        return select(method, key, *rest)

    monkeypatch.setattr(rounds, "selected", noting)
    feed = made(tmp_path, RAFT(num_samples=2, refresh=1, epochs=1), Script(best), batch_size=2)
    for _ in range(4):
        feed.draw(None)
    drawing = jax.random.fold_in(jax.random.key(0), feeds.SAMPLING)
    own = jax.vmap(lambda number: jax.random.fold_in(drawing, number))(np.arange(8))
    assert len(keys) == 4
    assert not [key for key in keys if key in jax.random.key_data(own).tolist()]


def test_the_samplers_own_log_probabilities_are_held_against_the_trainers(tmp_path):
    """Of a critic's method, which learns by the trainer's: the sampler is off by 0.5 in half."""

    def look(params, examples):
        ones = [np.ones(len(example.responses), np.float32) for example in examples]
        return {"old_logprobs": [-x for x in ones], "old_values": ones}

    script = Script(best, logprobs=[-1.0, -1.5])
    method = PPO(num_samples=2, beta=0.0, refresh=1, epochs=1)
    feed = made(tmp_path, method, script, batch_size=2, look=look)
    (batch, _), drawn = feed.draw(None)
    assert drawn.metrics["sampling/logp_difference"] == pytest.approx(0.25)
    assert batch.old_logprobs[batch.mask].tolist() == [-1.0] * 4


def test_the_distance_is_a_mean_over_prompts_of_means_over_their_tokens():
    logprobs = np.array([[[-1.0, -2.0], [-3.0, 9.0]], [[-1.0, 9.0], [-1.0, 9.0]]], np.float32)
    lengths = np.array([[2, 1], [1, 1]], np.int32)
    apart_by = np.array([[[0.3, 0.1], [0.2, 5.0]], [[0.0, 5.0], [0.8, 5.0]]], np.float32)
    answered = Answered(
        np.zeros((2, 2, 2), np.int32), lengths, np.ones((2, 2), bool), logprobs + apart_by
    )
    # (0.3 + 0.1 + 0.2) / 3 and (0.0 + 0.8) / 2
    assert apart(answered, logprobs) == pytest.approx(0.3)


def test_a_reward_that_fails_leaves_the_position_of_the_round_before(tmp_path):
    script = Script(lambda drawing, i: (i + 1, i + 2))
    feed = made(tmp_path, RAFT(num_samples=2, refresh=1), script, batch_size=2)
    met(feed)
    before = feed.position()

    def down(completion_ids, **_):
        raise ConnectionError("the judge is down")

    working = feed._settings
    feed._settings = dataclasses.replace(working, rewards=Rewards(parts=(Function(function=down),)))
    with pytest.raises(DrawFailed, match="the judge is down") as error:
        feed.draw(None)
    assert isinstance(error.value.__cause__, ConnectionError)
    assert feed.position() == before
    feed._settings = working
    met(feed)
    assert feed.position()["round"] == before["round"] + 1
