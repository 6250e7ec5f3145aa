"""`alignax methods`, `alignax train --method` and `alignax score`, on the tiny model."""

import json

import numpy as np
import pytest

from alignax import catalogue, config, methods
from alignax.cli import main
from alignax.core.records import Attributed, Preference, Ranking, Scored
from alignax.models import pretrained
from alignax.score import score
from tests.tiny_model import experiment, model_directory, write_rows

SMALL = ("--data.limits.max-length", "256", "--loop.batch-size", "4", "--loop.max-steps", "2",
         "--mesh.data", "1", "--evaluation.num-prompts", "0")  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_directory(tmp_path_factory.mktemp("model") / "model")


def test_every_method_has_a_name_and_a_config_whose_method_it_is():
    from alignax.config import load

    entries = catalogue.entries()
    assert {entry.method for entry in entries} == set(methods.ALL)
    for entry in entries:
        assert type(load(entry.config).method) is entry.method
        assert catalogue.entry(entry.name.upper().replace("_", "-")) == entry


def test_methods_are_listed_with_needs_data_and_paper(capsys):
    main(["methods"])
    printed = capsys.readouterr().out
    for entry in catalogue.entries():
        assert entry.name in printed
    kto = catalogue.entry("kto")
    assert (kto.record, kto.needs, kto.paper) == (
        "prompt, completion, label", "reference", "2402.01306"
    )  # fmt: skip
    assert catalogue.entry("reward_model").needs == "reward head"
    assert catalogue.entry("sft").record == "messages or prompt, completion"


def test_a_method_and_its_config_name_the_same_paper_first():
    found = {}
    for entry in catalogue.entries():
        named = catalogue.PAPER.findall(entry.config.read_text())
        found[entry.name] = (entry.paper, *(named[:1] or [entry.paper]))
    assert {name: papers for name, papers in found.items() if len(set(papers)) > 1} == {}
    assert found["decision_transformer"][0] == "2308.12050"
    assert found["attribute_reward_model"][0] == "2311.09528"


def test_one_method_is_explained(capsys):
    main(["methods", "dpo"])
    printed = capsys.readouterr().out
    for part in (
        "learns from  prompt, chosen, rejected\n",
        "needs        reference\n",
        "paper        arXiv:2305.18290\n",
        f"config       {config.configs_directory() / 'dpo_hh.py'}\n",
        "settings     alignax train --method dpo --help\n",
        "beta: how strongly the policy is held to the reference, above 0.",
    ):
        assert part in printed
    assert "rrhf" not in printed


def test_a_misspelt_method_is_answered_with_the_nearest(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--method", "rhrf"])
    assert "Did you mean rrhf?" in capsys.readouterr().err


def test_a_method_trains_on_any_data_without_a_config(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for split in ("train", "test"):
        write_rows(tmp_path / "mine" / f"{split}.jsonl", 8, Ranking)
    main(["train", "--method", "rrhf", "--data", "mine", "--model", str(model),
          "--method.sft-weight", "0.5", *SMALL])  # fmt: skip
    run = tmp_path / "runs" / "rrhf_mine"
    assert (run / "export" / "model.safetensors").is_file()
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert "eval_rewards/accuracies" in log[0]  # mine/test.jsonl was held out


def test_lists_that_teach_nothing_are_left_out_and_counted(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "lists.jsonl", 8, Ranking)
    tie = {"prompt": "p", "completions": ["a", "b"], "scores": [1, 1]}
    with (tmp_path / "lists.jsonl").open("a") as file:
        file.write(json.dumps(tie) + "\n")
    main(["prepare", "--method", "pro", "--data", "lists.jsonl", "--model", str(model), *SMALL])
    printed = " ".join(capsys.readouterr().out.split())
    assert "rows: 9; records: 9" in printed
    assert "left out: 1 all scores equal (lists.jsonl:9)" in printed
    assert "groups: 8; kept: 8" in printed


def test_a_pair_without_margin_is_refused_at_its_line_where_margins_are_learnt(
    model, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "pairs.jsonl", 4, Preference)
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    for row in rows:
        del row["margin"]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for options in (("curriculum",), ("reward_model", "--method.margins")):
        with pytest.raises(SystemExit):
            main(["train", "--method", options[0], "--data", "pairs.jsonl", "--model", str(model),
                  *options[1:], *SMALL])  # fmt: skip
        printed = capsys.readouterr().err
        assert "pairs.jsonl:1: expected pairs with a margin" in printed
        assert "Give a column margin" in printed


@pytest.fixture(scope="module")
def scorers(tmp_path_factory):
    """A reward model and a model of two attributes, trained for two steps."""
    from alignax import jobs
    from alignax.methods import AttributeRewardModel, RewardModel

    made = {}
    for name, method, record in (
        ("reward", RewardModel(), Preference),
        ("attributes", AttributeRewardModel(), Attributed),
    ):
        folder = tmp_path_factory.mktemp(name)
        setup = experiment(folder, method=method)
        for path in (setup.data.train, setup.data.eval):
            write_rows(type(folder)(path), 16, record)
        made[name] = jobs.train(setup, quiet=True)
    return made


def test_a_trained_reward_model_is_a_sequence_classifier(scorers):
    for name, labels in (("reward", {"0": "reward"}), ("attributes", {"0": "depth", "1": "wit"})):
        config = json.loads((scorers[name] / "config.json").read_text())
        assert config["architectures"] == ["LlamaForSequenceClassification"]
        assert config["id2label"] == labels
        assert pretrained.load(scorers[name]).params["score"].shape[0] == len(labels)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_scores_are_written_beside_every_row(scorers, tmp_path, capsys):
    source = write_rows(tmp_path / "lists.jsonl", 4, Ranking)
    main(["score", str(scorers["reward"]), "--data", str(source), "--to",
          str(tmp_path / "out.jsonl"), "--max-length", "256"])  # fmt: skip
    assert "reward: mean" in capsys.readouterr().out
    before, after = lines(source), lines(tmp_path / "out.jsonl")
    assert [row["completions"] for row in after] == [row["completions"] for row in before]
    assert all(len(row["scores"]) == len(row["completions"]) for row in after)
    # Each list's responses get what they get one by one.
    single = tmp_path / "single.jsonl"
    rows = [{"prompt": r["prompt"], "completion": c} for r in after for c in r["completions"]]
    single.write_text("".join(json.dumps(row) + "\n" for row in rows))
    score(scorers["reward"], str(single), tmp_path / "one.jsonl", max_length=256, quiet=True)
    found = [row["score"] for row in lines(tmp_path / "one.jsonl")]
    expected = [x for row in after for x in row["scores"]]
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_pairs_get_two_scores_and_single_responses_attributes(scorers, tmp_path):
    pairs = write_rows(tmp_path / "pairs.jsonl", 3, Preference)
    score(scorers["reward"], str(pairs), tmp_path / "a.jsonl", max_length=256, quiet=True)
    both = {"score_chosen", "score_rejected"}
    assert all(both <= row.keys() for row in lines(tmp_path / "a.jsonl"))
    single = write_rows(tmp_path / "single.jsonl", 3, Scored)
    score(scorers["attributes"], str(single), tmp_path / "b.jsonl", max_length=256,
          whole_numbers=True, quiet=True)  # fmt: skip
    for row in lines(tmp_path / "b.jsonl"):
        assert set(row["attributes"]) == {"depth", "wit"}
        assert all(x == int(x) for x in row["attributes"].values())


def test_what_cannot_be_scored_is_refused(model, scorers, tmp_path, capsys):
    source = str(write_rows(tmp_path / "lists.jsonl", 2, Ranking))
    there = tmp_path / "there.jsonl"
    there.write_text("kept")
    for directory, target, wanted in (
        (model, "new.jsonl", "expected a reward model (a sequence classifier with a score head)"),
        (scorers["reward"], "there.jsonl", "expected a file that is not there yet"),
        (scorers["attributes"], "new.jsonl", "expected single responses, for a model of several"),
    ):
        with pytest.raises(SystemExit):
            main(["score", str(directory), "--data", source, "--to", str(tmp_path / target)])
        assert wanted in capsys.readouterr().err
    assert there.read_text() == "kept"
    assert not (tmp_path / "new.jsonl").exists()


def test_what_is_held_out_can_be_given_beside_the_data_of_the_config():
    made, others = catalogue.experiment(["--method", "rrhf", "--eval-data", "held.jsonl", "--x"])
    assert (made.data.eval, others) == ("held.jsonl", ["--x"])
    assert made.data.train == config.load(catalogue.entry("rrhf").config).data.train


def test_a_folder_of_the_hub_holds_its_test_split_out_and_names_the_run(tmp_path):
    folder = tmp_path / "mine.v2"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "train-00000-of-00001.parquet").write_bytes(b"")

    def made(source):
        return catalogue.experiment(["--method", "dpo", "--data", str(source)])[0]

    assert made(folder).data.eval is None
    (folder / "data" / "test-00000-of-00001.parquet").write_bytes(b"")
    assert made(folder).data.eval == str(folder)
    for source, name in {
        folder: "mine",
        folder / "data" / "train-*.parquet": "train",
        folder / "data" / "*": "data",
        "*": "data",
        "hf:owner/name": "name",
    }.items():
        assert made(source).output_dir == f"runs/dpo_{name}"
    assert made(folder / "data" / "*").data.eval is None
