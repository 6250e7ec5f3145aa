"""Any Python function as a reward, called as TRL's online trainers call theirs."""

import asyncio
import functools
import os
import sys

import pytest

from alignax.core.errors import BadInput
from alignax.core.records import Message
from alignax.generate.reward_functions import Function
from alignax.generate.rewards import Rewards

FILE = """
import asyncio

OFFSET = {offset}

class Table:
    @staticmethod
    def look(completions):
        return [OFFSET] * len(completions)

def count(prompts, completions, **kwargs):
    return [OFFSET + len(text) for text in completions]

async def later(completions, **kwargs):
    await asyncio.sleep(0)
    return [OFFSET + len(text) for text in completions]
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "my_rewards.py"
    path.write_text(FILE.format(offset=10))
    return path


def give(function, prompts=("p", "q"), completions=("a", "bb"), ids=((1,), (2, 3)), **columns):
    return Function(function=function)(prompts, completions, completion_ids=ids, **columns)


def spy(seen, **kwargs):
    seen.append(kwargs)
    return [0.0] * len(kwargs["completions"])


def test_it_gets_every_argument_by_name():
    seen = []
    give(functools.partial(spy, seen), answer=["1", "2"], level=[3, 4])
    assert seen == [
        {"prompts": ["p", "q"], "completions": ["a", "bb"], "completion_ids": [[1], [2, 3]],
         "answer": ["1", "2"], "level": [3, 4]}
    ]  # fmt: skip


def test_its_fingerprint_follows_its_file_and_the_neighbours_that_this_imports(path):
    place = f"{path}:count"
    neighbour = path.with_name("weights_of_mine.py")
    found = [Function(function=place).fingerprint()]
    neighbour.write_text("W = 1\n")
    found.append(Function(function=place).fingerprint())
    assert found[0] == found[1]
    path.write_text("import weights_of_mine\n" + path.read_text())
    found.append(Function(function=place).fingerprint())
    neighbour.write_text("W = 2\n")
    found.append(Function(function=place).fingerprint())
    assert len(set(found)) == 3


def test_a_function_given_itself_is_known_by_its_source_where_there_is_one():
    own, other = (Function(function=x).fingerprint() for x in (spy, give))
    assert own != other
    assert own == Function(function=spy).fingerprint()
    assert Function(function=len).fingerprint() == ""


def test_conversations_come_as_lists_of_roles_and_contents():
    seen = []
    turns = (Message("system", "Be brief."), Message("user", "Why?"))
    give(functools.partial(spy, seen), prompts=(turns, turns))
    assert (
        seen[0]["prompts"]
        == [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]] * 2
    )
    called = Message("assistant", "", '{"tool_calls": [{"name": "f"}]}')
    give(functools.partial(spy, seen), prompts=((called, turns[1]),) * 2)
    assert seen[1]["prompts"][0][0] == {"role": "assistant", "tool_calls": [{"name": "f"}]}
    assert seen[0]["completions"] == [
        [{"role": "assistant", "content": "a"}],
        [{"role": "assistant", "content": "bb"}],
    ]


def lengths(completions, *, answer, scale=(2.0, 2.0)):
    return [scale[0] * len(text) if known else None for text, known in zip(completions, answer)]  # noqa: B905


def test_a_function_without_kwargs_gets_those_that_it_names():
    assert give(lengths, answer=["1", ""], level=[3, 4]) == [2.0, None]
    assert give(lengths, answer=["1", "2"], scale=[3.0, 3.0]) == [3.0, 6.0]


def test_an_argument_that_is_no_column_is_refused_and_never_masked():
    rewards = Rewards(parts=(Function(function=lengths),), on_bad="mask")
    with pytest.raises(BadInput) as error:
        rewards.score(["p"], ["a"], completion_ids=[[1]], columns={"gold": [1]})
    assert str(error.value) == (
        "rewards: lengths: expected columns for the arguments of lengths: answer; got prompts, "
        "completions, completion_ids and the columns gold.\n"
        "    Add the column to the data, or give the argument a default."
    )


def test_an_argument_without_a_column_is_refused_beside_kwargs_too():
    def judge(completions, answer, **kwargs):
        raise AssertionError("called")

    rewards = Rewards(parts=(Function(function=judge),), on_bad="mask")
    with pytest.raises(BadInput) as error:
        rewards.score(["p"], ["a"], completion_ids=[[1]], columns={})
    assert str(error.value) == (
        "rewards: judge: expected columns for the arguments of judge: answer; got prompts, "
        "completions, completion_ids and the columns (none).\n"
        "    Add the column to the data, or give the argument a default."
    )


def test_each_of_several_functions_has_a_none_of_its_own():
    # As in TRL: a sum over those that apply to a completion.
    parts = tuple(
        Function(function=lambda completions, own=own: [own.get(x) for x in completions])
        for own in ({"a": 1.0, "c": 3.0}, {"b": 20.0, "c": 30.0})
    )
    found = Rewards(parts=parts, weights=(1.0, 0.1)).score(
        ["p"] * 3, ["a", "b", "c"], completion_ids=[[1]] * 3, columns={}
    )
    assert found.total.tolist() == [1.0, 2.0, 6.0]
    assert found.good.all()


def test_a_function_is_found_in_a_file_and_read_again_once_the_file_has_changed(path):
    assert give(f"{path}:count") == [11, 12]
    assert give(f"{path}:Table.look") == [10, 10]
    path.write_text(FILE.format(offset=20))
    os.utime(path, ns=(1, 1))
    assert give(f"{path}:count") == [21, 22]


def test_what_is_async_is_waited_for_even_where_a_loop_is_going_on(path):
    assert give(f"{path}:later") == [11, 12]

    async def in_a_notebook():
        return give(f"{path}:later", completions=("ccc", "dddd"))

    assert asyncio.run(in_a_notebook()) == [13, 14]


def test_a_file_imports_its_neighbours_as_a_script_does(path):
    (path.parent / "neighbour_of_rewards.py").write_text("OFFSET = 7\n")
    path.write_text(
        "import neighbour_of_rewards as other\n\n"
        "def count(completions):\n    return [other.OFFSET] * len(completions)\n"
    )
    assert give(f"{path}:count") == [7, 7]
    assert str(path.parent) not in sys.path


def test_a_function_is_found_in_a_module():
    assert give("tests.generate.test_reward_functions:lengths", answer=["1", "2"]) == [2.0, 4.0]


def test_its_name_is_the_functions_own(path):
    names = [Function(function=x).name for x in (f"{path}:Table.look", lengths, len)]
    assert names == ["look", "lengths", "len"]
    assert Function(function=functools.partial(lengths)).name == "partial"


def test_a_function_that_raises_is_known_by_the_completion():
    def picky(completions):
        if "bb" in completions:
            raise RuntimeError("no bb, please")
        return [1.0] * len(completions)

    rewards = Rewards(parts=(Function(function=picky),))
    with pytest.raises(BadInput) as error:
        rewards.score(["p", "q"], ["a", "bb"], completion_ids=[[1], [1]], columns={})
    assert "got RuntimeError: no bb, please for the completion 'bb' to the prompt 'q'" in str(
        error.value
    )


@pytest.mark.parametrize(
    ("function", "text"),
    [
        ("count", "expected a module and a name in it; got 'count'.\n"
         '    Give "package.module:name" or "path/to/file.py:name".'),
        ("{path}:cuont", "expected a function cuont in {path}; got none.\n    Did you mean count?"),
        ("{path}:OFFSET", "expected a function that returns a list of numbers; got 10.\n"
         "    Give a function."),
        ("runs/rm", "expected a module and a name in it; got 'runs/rm'.\n    A reward model is a "
         'reward of another kind, which a config gives: ModelReward(directory="runs/rm"). '
         "configs/grpo_reward_model.py shows one."),
        ("nowhere.py:count", "expected a Python file; got no such file: nowhere.py"),
        ("no_such_module:f", "expected a module that can be imported; got ModuleNotFoundError: No "
         "module named 'no_such_module'"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused_before_anything_is_sampled(function, text, path):
    with pytest.raises(BadInput) as error:
        Function(function=function.format(path=path)).check()
    assert str(error.value).startswith(
        f"rewards: {function.format(path=path)}: {text.format(path=path)}"
    )


def test_a_file_that_does_not_run_is_refused_with_its_error(path):
    path.write_text("1 / 0\n")
    with pytest.raises(BadInput, match="got ZeroDivisionError: division by zero"):
        Function(function=f"{path}:count").check()


def test_a_function_is_not_given_token_ids_that_nobody_knows():
    seen = []
    give(functools.partial(spy, seen), ids=None)
    assert seen == [{"prompts": ["p", "q"], "completions": ["a", "bb"]}]

    def either(completions, completion_ids=None):
        return [len(x) for x in (completion_ids or completions)]

    assert give(either, ids=None) == [1, 2]
    assert give(either, ids=((1, 2, 3), ())) == [3, 0]


def test_an_argument_that_is_no_column_is_refused_beside_any_others_too():
    def open_to_all(completions, answer, **others):
        return [0.0] * len(completions)

    rewards = Rewards(parts=(Function(function=open_to_all),), on_bad="mask")
    with pytest.raises(BadInput, match="columns for the arguments of open_to_all: answer; got"):
        rewards.score(["p"], ["a"], completion_ids=[[1]], columns={})
