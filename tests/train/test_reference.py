"""The reference's log-probabilities are computed once, kept whole, and found by what made them."""

import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.data.pipeline import TokenArrays
from alignax.data.plan import make_plan
from alignax.train import reference
from tests.models import plain
from tests.tiny_batch import CONFIG, model_fn, params, random_table

TABLE = random_table(7, responses=2)


def computed(table=TABLE, **settings):
    plan = make_plan(table.lengths, align=8, **{"batch_size": 3, **settings})
    return reference.compute(model_fn, params(), table, plan)


class Maker:
    """Makes a table and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self) -> TokenArrays:
        self.calls += 1
        table = TokenArrays.empty(TABLE.lengths)
        table.values[:] = np.arange(table.values.size) + 100 * self.calls
        return table


def test_every_scored_token_gets_the_log_prob_of_its_response_alone():
    found = computed()
    assert found.values.dtype == np.float32
    for group in range(len(TABLE)):
        example, start = TABLE[group], 0
        for tokens, mask in example.split():
            alone = np.asarray(plain.logprobs(CONFIG, params(), example.prompt, tokens))
            own = found[group][start : start + len(tokens)]
            np.testing.assert_allclose(own, alone * mask, atol=1e-5)
            start += len(tokens)


def test_any_plan_gives_the_same_to_rounding():
    other = computed(batch_size=4, shards=2)
    np.testing.assert_allclose(other.values, computed().values, atol=2e-6)


def test_what_the_pass_has_freed_is_given_back_when_it_ends(monkeypatch):
    given = []
    monkeypatch.setattr(reference, "give_back", lambda: given.append(1))
    computed()
    assert len(given) == 1


def test_a_part_is_a_data_set_of_its_groups():
    part = reference.Part(TABLE, np.array([1, 4]))
    assert len(part) == 2
    assert [part[i] is TABLE[j] for i, j in ((0, 1), (1, 4))] == [True, True]
    for own, whole in zip(part.lengths, TABLE.lengths, strict=True):
        np.testing.assert_array_equal(own, whole[[1, 4]])


def test_a_part_spread_out_is_at_its_groups_places_and_0_elsewhere():
    part = reference.Part(TABLE, np.array([1, 4, 6]))
    found = reference.spread(computed(part), part, TABLE.lengths)
    expected = computed()
    assert found.values.shape == expected.values.shape
    counts = TABLE.lengths.response.sum(axis=1)
    for group, count in enumerate(counts):
        own = found[group][:count]
        if group in (1, 4, 6):
            np.testing.assert_allclose(own, expected[group][:count], atol=2e-6)
        else:
            np.testing.assert_array_equal(own, 0.0)


def test_is_made_once_and_read_after(tmp_path):
    make = Maker()
    made, was_there = reference.cached(tmp_path / "new" / "cache", ("a", "b"), TABLE, make)
    assert not was_there
    read, was_there = reference.cached(tmp_path / "new" / "cache", ("a", "b"), TABLE, make)
    assert was_there
    assert make.calls == 1
    np.testing.assert_array_equal(read.values, made.values)
    np.testing.assert_array_equal(read.starts, made.starts)
    assert read.values.dtype == np.float32


@pytest.mark.parametrize("bytes_left", [0, 40, 150, -4])
def test_is_made_again_where_the_file_is_cut_short(tmp_path, bytes_left):
    make = Maker()
    reference.cached(tmp_path, ("a",), TABLE, make)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:bytes_left])
    found, was_there = reference.cached(tmp_path, ("a",), TABLE, make)
    assert not was_there
    assert make.calls == 2
    assert found.values[0] == 200
    again, was_there = reference.cached(tmp_path, ("a",), TABLE, make)
    assert was_there
    assert again.values[0] == 200


def test_is_made_again_where_the_file_is_of_other_data(tmp_path):
    make = Maker()
    reference.cached(tmp_path, ("a",), TABLE, make)
    (path,) = tmp_path.iterdir()
    np.save(path, np.zeros(3, np.float32))
    assert reference.cached(tmp_path, ("a",), TABLE, make)[1] is False


def test_another_key_is_another_file(tmp_path):
    make = Maker()
    keys = [("a", "b"), ("a", "c"), ("b", "a"), ("a",), ("a", "b", "")]
    first = [reference.cached(tmp_path, key, TABLE, make)[0].values[0] for key in keys]
    assert first == [100, 200, 300, 400, 500]
    assert len(list(tmp_path.iterdir())) == 5  # and no drafts
    for key, value in zip(keys, first, strict=True):
        found, was_there = reference.cached(tmp_path, key, TABLE, make)
        assert was_there
        assert found.values[0] == value


def test_a_directory_that_cannot_be_written_is_said_to_be_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput) as error:
        reference.cached(tmp_path / "file", ("a",), TABLE, Maker())
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'file'}: expected a cache directory that can be written; ")
    assert text.endswith("\n    Free some space, or name another directory with data.cache_dir.")
