"""SteerLM's four steps, one command after another, as configs/steerlm_summeval.py has them."""

import json
import pathlib
import runpy

import pytest

from alignax.cli import main
from alignax.core.conditioning import read_request
from alignax.core.records import Attributed, Scored
from alignax.methods.steerlm import top_combinations
from tests.tiny_model import model_directory, write_rows

ROOT = pathlib.Path(__file__).parents[2]
SMALL = ("--data.limits.max-length", "256", "--loop.batch-size", "8", "--loop.max-steps", "12",
         "--optim.learning-rate", "1e-2", "--mesh.data", "1", "--evaluation.num-prompts", "0",
         "--loop.save-steps", "None")  # fmt: skip


@pytest.fixture
def bootstrap():
    return runpy.run_path(str(ROOT / "configs" / "steerlm" / "bootstrap.py"))["main"]


def lines(name):
    return [json.loads(line) for line in pathlib.Path(name).read_text().splitlines()]


def losses(run):
    return [line["loss"] for line in lines(f"{run}/metrics.jsonl") if "loss" in line]


def test_a_policy_is_trained_again_on_its_own_answers_annotated_for_what_they_are(
    bootstrap, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    model = str(model_directory(tmp_path / "model"))
    write_rows(tmp_path / "people.jsonl", 16, Attributed)
    write_rows(tmp_path / "data.jsonl", 16, Scored)
    main(["train", "--method", "attribute_reward_model", "--data", "people.jsonl",
          "--model", model, *SMALL])  # fmt: skip
    judge = "runs/attribute_reward_model_people/export"
    main(["score", judge, "--data", "data.jsonl", "--to", "annotated.jsonl", "--whole-numbers"])
    main(["train", "--method", "steerlm", "--data", "annotated.jsonl", "--model", model, *SMALL])
    policy = "runs/steerlm_annotated/export"

    bootstrap(["ask", "annotated.jsonl", "--to", "asked.jsonl", "--quality", "wit"])
    best = top_combinations([row["attributes"] for row in lines("annotated.jsonl")], quality="wit")
    asked = lines("asked.jsonl")
    assert [row["plain"] for row in asked] == [row["prompt"] for row in lines("annotated.jsonl")]
    for row in asked:
        assert row["prompt"].startswith(f"{row['plain']} <attributes>: ")
        assert read_request(row["prompt"]) in best

    main(["sample", policy, "--data", "asked.jsonl", "--to", "sampled.jsonl", "--num-samples", "2",
          "--temperature", "1", "--top-k", "50", "--top-p", "1",
          "--max-new-tokens", "8"])  # fmt: skip
    bootstrap(["part", "sampled.jsonl", "--to", "answers.jsonl"])
    answers = lines("answers.jsonl")
    said = [(row["plain"], text) for row in lines("sampled.jsonl") for text in row["completions"]]
    assert len(said) == 2 * 16
    assert [(x["prompt"], x["completion"]) for x in answers] == [x for x in said if x[1].strip()]
    main(["score", judge, "--data", "answers.jsonl", "--to", "bootstrap.jsonl", "--whole-numbers"])
    main(["train", "--method", "steerlm", "--data", "bootstrap.jsonl", "--model", policy, *SMALL])
    found = losses("runs/steerlm_bootstrap")
    assert found[-1] < found[0]
    assert (tmp_path / "runs" / "steerlm_bootstrap" / "export" / "model.safetensors").is_file()
