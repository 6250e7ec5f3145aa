"""The lexicon's reward: means worked by hand, negations, and the files it reads."""

import pytest

from alignax.core.errors import BadInput
from alignax.generate.lexicon import Lexicon


def give(text, **settings):
    (found,) = Lexicon(**settings)(["p"], [text], completion_ids=[[1]])
    return found


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("# my words\nup 1\nUPPER 0.5\n\ndown -1\nisn't -0.25\n")
    return str(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("up", 1.0),
        ("Up, UP and upper!", 2.5 / 3),
        ("up down", 0.0),
        ("up down down", -1 / 3),
        ("upward", 0.0),  # another word
        ("nothing of it", 0.0),
        ("", 0.0),
        ("not up", -1.0),
        ("not a b up", -1.0),  # three words are reached
        ("not a b c up", 1.0),  # a fourth is not
        ("not down", 1.0),
        ("never up down", 0.0),  # both: -1 + 1
        ("No, up", 1.0),  # a comma stands between
        ("not\nup", 1.0),
        ("it doesn't go up", -1.0),
        ("it doesn\u2019t go up", -1.0),
        ("isn't it", -0.25),  # a word of the list that negates what follows it
        ("isn't up", (-0.25 - 1.0) / 2),
    ],
)
def test_the_reward_is_the_mean_weight_of_the_words_found(text, expected, words):
    assert give(text, words=words) == pytest.approx(expected)


def test_the_built_in_list_knows_praise_from_complaint():
    assert give("A good film.") == 1.0
    assert give("not a good film") == -1.0
    assert give("good, not bad, but boring") == pytest.approx(1 / 3)
    assert give("What a waste: tedious, predictable and unfunny.") == -1.0
    assert give("The film is two hours long.") == 0.0


def test_the_built_in_list_is_of_some_hundreds_of_single_words_with_both_signs():
    weights = Lexicon().weights()
    for sign in (1.0, -1.0):
        assert sum(weight == sign for weight in weights.values()) >= 150
    assert set(weights.values()) == {1.0, -1.0}
    assert all(word.isalpha() and word.islower() for word in weights)


def test_a_file_that_has_changed_is_read_again(words, tmp_path):
    import os

    assert give("up", words=words) == 1.0
    before = Lexicon(words=words).fingerprint()
    (tmp_path / "words.txt").write_text("up -0.5\n")
    os.utime(words, ns=(1, 1))
    assert give("up", words=words) == -0.5
    assert Lexicon(words=words).fingerprint() != before


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("up 1\ndown\n", "{path}:2: expected one word and its weight in [-1, 1]; got 'down'.\n"
         "    Mend or remove the line."),
        ("up 2\n", "{path}:1: expected one word and its weight in [-1, 1]; got 'up 2'"),
        ("up nan\n", "{path}:1: expected one word and its weight in [-1, 1]; got 'up nan'"),
        ("not up -1\n", "{path}:1: expected one word and its weight in [-1, 1]; got 'not up -1'"),
        ("up 1\nup -1\n", "{path}:2: expected one weight for each word; got up again, with -1 "
         "after 1.\n    Keep one of the two lines."),
        ("# nothing\n", "{path}: expected at least one word; got none"),
    ],
)  # fmt: skip
def test_a_bad_list_is_refused_at_its_line(content, text, tmp_path):
    path = tmp_path / "words.txt"
    path.write_text(content)
    with pytest.raises(BadInput) as error:
        Lexicon(words=str(path)).check()
    assert str(error.value).startswith(text.format(path=path))


def test_a_list_that_is_not_there_is_refused():
    with pytest.raises(BadInput) as error:
        Lexicon(words="nowhere.txt").check()
    assert str(error.value) == (
        "rewards: lexicon.words: expected 'sentiment', or the path of a file with a word and its "
        "weight a line; got No such file or directory: nowhere.txt.\n    Check the path."
    )
    Lexicon().check()
