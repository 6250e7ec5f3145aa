"""Plans of a kind share one shape where they can, and hold what they held."""

import numpy as np

from alignax.data.ladder import rung, widened
from alignax.data.plan import Lengths, make_plan

PROMPT, RESPONSE = 10, 20


def plan_of(seed, groups=12, k=3):
    draw = np.random.default_rng(seed)
    response = draw.integers(1, RESPONSE + 1, (groups, k))
    lengths = Lengths(draw.integers(1, PROMPT + 1, groups), response, response)
    return make_plan(lengths, batch_size=6, num_steps=2, seed=seed)


def test_rows_are_as_long_as_the_longest_group_there_can_be():
    # 10 + 3 * 20 = 70 tokens, rounded up to a multiple of 64.
    shapes = {widened(plan_of(i), prompt=PROMPT, response=RESPONSE).shape for i in range(20)}
    assert {shape.row_length for shape in shapes} == {128}
    assert {(shape.prompt, shape.response) for shape in shapes} == {(PROMPT, RESPONSE)}
    # Twenty sets of random lengths, 6 groups a step: few shapes are compiled.
    assert len({plan_of(i).shape for i in range(20)}) > 2 * len(shapes)


def test_every_group_lies_in_a_row_and_no_two_overlap():
    for seed in range(5):
        plan = widened(plan_of(seed), prompt=PROMPT, response=RESPONSE)
        for step in range(2):
            placed = plan.step(step)
            taken = np.zeros((plan.shape.rows, plan.shape.row_length), int)
            for group, row, offset in zip(*(x[0] for x in placed), strict=True):
                taken[row, offset : offset + plan.lengths.total[group]] += 1
            assert taken.max() == 1
            assert taken.sum() == plan.lengths.total[placed.group[0]].sum()


def test_scored_tokens_have_room():
    for seed in range(5):
        plan = widened(plan_of(seed), prompt=PROMPT, response=RESPONSE)
        for step in range(2):
            groups = plan.step(step).group[0]
            assert plan.lengths.scored[groups].sum() <= plan.shape.scored


def test_unfitted_plans_have_the_one_shape_that_holds_all():
    plans = [widened(plan_of(i, groups=n), prompt=PROMPT, response=RESPONSE, fit="longest")
             for i in range(5) for n in (8, 12)]  # fmt: skip
    (shape,) = {plan.shape for plan in plans}
    # Six groups to a step, each a row; 6 x 3 x 20 tokens, all of them scored.
    assert (shape.rows, shape.row_length, shape.scored) == (6, 128, 360)
    fitted = widened(plan_of(3), prompt=PROMPT, response=RESPONSE)
    for step in range(2):  # the same groups at every step; only where they lie differs
        groups = {frozenset(x.step(step).group[0].tolist()) for x in (fitted, plans[7])}
        assert len(groups) == 1


def test_half_of_the_rows_are_taken_where_they_hold_the_plan():
    whole = widened(plan_of(0), prompt=PROMPT, response=RESPONSE, fit="longest").shape
    found = [widened(plan_of(i), prompt=PROMPT, response=RESPONSE, fit="halves") for i in range(5)]
    # Six groups, a row each; half is three rows, and 180 scored tokens brought to 184.
    assert (whole.rows, whole.scored) == (6, 360)
    for plan in found:
        most = max(plan.lengths.scored[plan.step(i).group[0]].sum() for i in range(2))
        assert (plan.shape.rows, plan.shape.scored) == ((3, 184) if most <= 184 else (6, 360))
    assert len({plan.shape for plan in found}) == 2


def test_a_rung_is_not_below_and_at_most_half_as_much_again():
    for count in range(1, 500):
        assert count <= rung(count) <= max(1.5 * count, 2)
