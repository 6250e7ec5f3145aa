"""What of a drawing is learnt from, where some of it is no use."""

import numpy as np
import pytest

from alignax.data.bad_rows import Tally
from alignax.data.chat import Renderer
from alignax.data.prompts import Prompts
from alignax.data.sources import Report
from alignax.data.tokenise import Example
from alignax.generate.drawing import Answered, Drawing, merged
from alignax.generate.kept import Kept, groups_of_a_prompt, recorded
from alignax.methods import DPO, KTO, RRHF, RSO, RewardWeighted
from tests.tiny import chatml_tokenizer


def example(length):
    return Example(
        prompt=np.array([1], np.int32),
        responses=np.arange(length, dtype=np.int32),
        response_lengths=np.array([length], np.int32),
        mask=np.ones(length, bool),
        scores=np.zeros(1, np.float32),
        origin="",
    )


def test_a_drawing_that_kept_nothing_takes_no_numbers_from_the_next():
    nothing = Kept([], {}, Tally())
    some = Kept([example(2)], {"ref_logprobs": [np.array([-1.0, -2.0])]}, Tally())
    for both in (nothing + some, some + nothing):
        assert len(both.examples) == 1
        np.testing.assert_array_equal(both.numbers["ref_logprobs"], [[-1.0, -2.0]])
    assert (nothing + nothing).numbers == {}


@pytest.mark.parametrize(
    ("method", "pairing", "expected"),
    [
        (DPO(), "best-worst", 1),
        (DPO(), "adjacent", 3),
        (DPO(), "all", 6),
        (KTO(), "best-worst", 2),  # both of the pair
        (RRHF(), "best-worst", 1),
        (RewardWeighted(), "best-worst", 4),
        (RSO(num_samples=4, num_accepted=4), "best-worst", 2),  # two pairs of four accepted
    ],
    ids=str,
)
def test_groups_that_four_samples_of_a_prompt_make(method, pairing, expected):
    assert groups_of_a_prompt(method, 4, pairing) == expected


def drawing(valid, scores):
    """Two prompts, three samples each of two tokens."""
    tokens = np.arange(12, dtype=np.int32).reshape(2, 3, 2) + 100
    answered = Answered(tokens, np.full((2, 3), 2, np.int32), np.ones((2, 3), bool), None)
    texts = [["a", "b", "c"], ["d", "e", "f"]]
    return Drawing([1, 0], answered, texts, np.array(scores, np.float32), np.array(valid), {}, [])


def prompts():
    ids = [np.array([1, 2], np.int32)] * 2
    report = Report(
        source="f", split="train", form="prompt", columns=("prompt",), ignored=(), rows=2,
        records=2, dropped=Tally(), left_out=Tally(), repeated_prompts=0,
    )  # fmt: skip
    return Prompts(["p", "q"], ids, {}, ["f:1", "f:2"], report, Tally())


def test_lists_of_fewer_samples_are_filled_up_with_responses_that_are_not_there():
    found = recorded(
        RRHF(), drawing([[1, 0, 1], [1, 1, 1]], [[1, 9, 2], [3, 1, 2]]), prompts(),
        Renderer(tokenizer=chatml_tokenizer()),
    )  # fmt: skip
    # By score: c then a, then none; d, f, e. The tokens are those that were sampled.
    assert [e.response_lengths.tolist() for e in found.examples] == [[2, 2, 0], [2, 2, 2]]
    assert found.examples[0].responses.tolist() == [104, 105, 100, 101]
    assert found.examples[1].responses.tolist() == [106, 107, 110, 111, 108, 109]


def test_kto_with_one_useful_prompt_keeps_nothing_and_says_so():
    found = recorded(
        KTO(), drawing([[1, 1, 1], [1, 1, 1]], [[5, 5, 5], [3, 1, 2]]), prompts(),
        Renderer(tokenizer=chatml_tokenizer()),
    )  # fmt: skip
    assert found.examples == []
    assert found.dropped.counts == {
        "all scores equal": 1,
        "no other prompt to take an unrelated response from": 2,
    }


def test_ktos_unrelated_responses_are_of_both_labels():
    found = recorded(
        KTO(), drawing([[1, 1, 1], [1, 1, 1]], [[1, 9, 2], [3, 1, 2]]), prompts(),
        Renderer(tokenizer=chatml_tokenizer()),
    )  # fmt: skip
    # Of p the best is b and the worst a, of q d and e: b with d, a with e, and the other way round.
    a, b, d, e = [100, 101], [102, 103], [106, 107], [108, 109]
    assert [x.responses.tolist() for x in found.examples] == [b + d, a + e, d + b, e + a]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # Best first, of p: 104 and 102 (of one text) before 100; of q: 106, 110, 108.
        (RRHF(), [[104, 105, 102, 103, 100, 101], [106, 107, 110, 111, 108, 109]]),
        # The best against the worst of another text.
        (DPO(), [[104, 105, 100, 101], [106, 107, 108, 109]]),
        (KTO(), [[104, 105, 106, 107], [100, 101, 108, 109],
                 [106, 107, 104, 105], [108, 109, 100, 101]]),
    ],
    ids=lambda x: type(x).__name__,
)  # fmt: skip
def test_samples_of_one_text_keep_each_its_own_tokens(method, expected):
    found = drawing([[1, 1, 1], [1, 1, 1]], [[1, 2, 3], [3, 1, 2]])
    found = found._replace(texts=[["a", "b", "b"], ["d", "a", "f"]])
    # The score says which: 102 has 2 and 104 has 3, and the "a" of q is not that of p.
    kept = recorded(method, found, prompts(), Renderer(tokenizer=chatml_tokenizer()))
    assert [x.responses.tolist() for x in kept.examples] == expected


def test_samples_of_a_prompt_that_is_drawn_twice_keep_each_its_own_tokens():
    found = drawing([[1, 1, 1], [1, 1, 1]], [[1, 2, 3], [3, 2, 1]])
    found = found._replace(numbers=[0, 0], texts=[["a", "b", "c"], ["a", "b", "c"]])
    kept = recorded(RRHF(), found, prompts(), Renderer(tokenizer=chatml_tokenizer()))
    assert [x.responses.tolist() for x in kept.examples] == [
        [104, 105, 102, 103, 100, 101], [106, 107, 108, 109, 110, 111],
    ]  # fmt: skip


def test_metrics_of_several_drawings_are_added_up_each_in_its_way():
    one = {"reward": 1.0, "num_generated_tokens": 10.0, "completions/max_length": 4.0}
    two = {"reward": 2.0, "num_generated_tokens": 5.0, "completions/max_length": 9.0}
    assert merged([one, two]) == {
        "reward": 1.5, "num_generated_tokens": 15.0, "completions/max_length": 9.0
    }  # fmt: skip
