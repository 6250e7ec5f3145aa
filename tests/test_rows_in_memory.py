"""A run on rows in memory: its settings, how it goes on, and columns of other names in it."""

import dataclasses
import json
import pathlib
from typing import Any

import pytest

from alignax import Data, jobs
from alignax.core import processes
from alignax.core.errors import BadInput
from alignax.data.tokenise import TokenLimits
from alignax.overrides import override
from alignax.run import Run
from alignax.saved import first_difference, to_json
from alignax.train.loop import Loop
from tests.run_files import lines, updates
from tests.tiny_model import experiment as tiny
from tests.tiny_model import write_pairs

NAMES = {"prompt": "question", "chosen": "better.text", "rejected": "worse"}


def rows(folder, count) -> Any:
    return lines(write_pairs(folder / "rows.jsonl", count))


def data(folder, train, held_out=None, **changes):
    return Data(
        train=train, eval=held_out, limits=TokenLimits(max_length=256),
        cache_dir=str(folder / "cache"), **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run on files, and its experiment."""
    folder = tmp_path_factory.mktemp("files")
    made = tiny(folder)
    jobs.train(made, quiet=True)
    return made, folder / "run"


def test_a_run_on_rows_in_memory_goes_on_and_is_that_on_their_file(run, tmp_path):
    made, output = run
    train, held_out = rows(tmp_path, 24), rows(tmp_path, 8)
    began = dataclasses.replace(
        made,
        data=data(tmp_path, iter(train), tuple(held_out)),
        loop=dataclasses.replace(made.loop, max_steps=6),
        output_dir=str(tmp_path / "run"),
    )
    stopped = Loop(batch_size=8, max_steps=6, save_steps=2, keep=3)
    jobs.train(dataclasses.replace(began, loop=stopped), quiet=True)
    assert updates(tmp_path / "run") == updates(output)
    # From a checkpoint on the way, with the rows given anew.
    for path in (tmp_path / "run" / "checkpoint-6", tmp_path / "run" / "export"):
        path.rename(tmp_path / path.name)
    again = dataclasses.replace(began, data=data(tmp_path, train, held_out))
    assert again == began
    jobs.train(again, quiet=True)
    assert updates(tmp_path / "run") == updates(output)
    last = lines(output / "metrics.jsonl")[-1]["eval_loss"]
    assert jobs.evaluate(again, quiet=True)["eval_loss"].mean == pytest.approx(last)
    other = dataclasses.replace(began, data=data(tmp_path, train[::-1], held_out))
    with pytest.raises(BadInput, match=r"^data.train: expected the settings of the run that"):
        jobs.train(other, quiet=True)


def test_settings_hold_the_path_and_are_json_and_can_be_overridden(tmp_path):
    made = dataclasses.replace(tiny(tmp_path), data=data(tmp_path, rows(tmp_path, 4)))
    path = made.data.train
    assert pathlib.Path(path).parent == tmp_path / "cache"
    assert json.loads(json.dumps(to_json(made)))["data"]["train"] == path
    assert override(made, ["--seed", "3"]).data == made.data
    assert made.data.eval is None
    elsewhere = Data(train=rows(tmp_path, 4), cache_dir=str(tmp_path / "elsewhere"))
    moved = dataclasses.replace(made.data, train=elsewhere.train, cache_dir=elsewhere.cache_dir)
    one, other = (to_json(dataclasses.replace(made, data=x)) for x in (made.data, moved))
    assert one["data"]["train"] != other["data"]["train"]
    assert first_difference(one, other) is None


def test_processes_that_were_given_other_rows_are_refused(tmp_path, monkeypatch):
    made = dataclasses.replace(tiny(tmp_path), data=data(tmp_path, rows(tmp_path, 4)))
    monkeypatch.setattr(processes, "same", lambda text: text != pathlib.Path(made.data.train).name)
    with pytest.raises(BadInput) as error:
        Run(made, quiet=True).prepared("train")
    assert str(error.value) == (
        f"{made.data.train}: expected the same rows in every process, in the same order; got "
        "others in some.\n    Give rows in an order that is not drawn without a seed, nor that of "
        "a set."
    )


def test_a_path_of_the_users_may_be_another_on_every_host(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "same", lambda text: False)
    assert len(Run(tiny(tmp_path), quiet=True).prepared("train")) == 24


def test_columns_of_other_names_teach_what_those_of_the_usual_ones_do(run, tmp_path):
    made, output = run

    def named(row):
        better = {"text": row["chosen"], "id": 3}
        return {"question": row["prompt"], "better": better, "worse": row["rejected"]}

    train, held_out = ([named(row) for row in rows(tmp_path, n)] for n in (24, 8))
    # As the command line has it: in place of one name of the config's map, and with another.
    config = data(tmp_path, train, held_out, columns={"prompt": "question", "chosen": "worse"})
    mapped = override(
        dataclasses.replace(made, data=config, output_dir=str(tmp_path / "run")),
        ["--data.columns.chosen", "better.text", "--data.columns.rejected", "worse"],
    )
    assert mapped.data.columns == NAMES
    jobs.train(mapped, quiet=True)
    assert updates(tmp_path / "run") == updates(output)
    assert lines(tmp_path / "run" / "metrics.jsonl")[0] == lines(output / "metrics.jsonl")[0]
    # The swapped pairs are other data, though of the same file.
    swapped = {**NAMES, "chosen": NAMES["rejected"], "rejected": NAMES["chosen"]}
    turned = dataclasses.replace(mapped, data=dataclasses.replace(mapped.data, columns=swapped))
    assert Run(turned, quiet=True).train_data[0].origin == Run(mapped).train_data[0].origin
    assert Run(turned).train_data.fingerprint != Run(mapped).train_data.fingerprint
    with pytest.raises(BadInput, match=r"^data.columns.chosen: expected the settings of the run"):
        jobs.train(turned, quiet=True)


def test_prompts_of_a_file_of_their_own_have_their_own_names(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Is 2 a number?"}\n')
    made = tiny(tmp_path)
    made = dataclasses.replace(
        made,
        data=dataclasses.replace(made.data, columns=NAMES),
        evaluation=dataclasses.replace(made.evaluation, prompts=str(path)),
    )
    assert list(Run(made, quiet=True).prompts("answered").texts) == ["Is 2 a number?"]
