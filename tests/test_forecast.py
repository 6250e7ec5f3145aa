"""What an update takes elsewhere: counted as by hand, refused where it cannot be, made to fit."""

import dataclasses
import os
import subprocess
import sys

import pytest

from alignax.core.errors import BadInput
from alignax.data.plan import make_plan
from alignax.forecast import Boxes, boxes_of, forecast, operations, tables
from alignax.methods import SFT
from alignax.models.config import DecoderConfig, Experts
from alignax.topology import accelerator_type, parse, topology
from alignax.train.sharding import Mesh
from tests.conftest import ROOT
from tests.tiny_model import experiment as tiny
from tests.tiny_model import model_directory


@pytest.mark.parametrize(
    "name", ["v5e:16", "v5p:4x4", "h100:2x4", "h100:16", "v5e:0x4", "", "cpu:2x2"]
)
def test_a_topology_that_there_is_not_is_refused_with_those_that_there_are(name):
    with pytest.raises(BadInput, match="expected a topology such as v5e:16x16"):
        parse(name)


def test_names_of_topologies():
    assert parse("v5p:2x4x4") == ("v5p", (2, 4, 4))
    assert parse("cpu:8") == ("cpu", (8,))
    assert parse("h100:8") == ("h100", (8,))


def test_a_slice_is_known_to_libtpu_by_its_makers_name():
    """As docs.cloud.google.com/tpu/docs/v5p and v5e call 4x4x8 and 8x8."""
    assert accelerator_type("v5p", (4, 4, 8)) == "v5p-256"
    assert accelerator_type("v5e", (8, 8)) == "v5litepod-64"


def test_operations_are_those_of_a_hand_count():
    config = DecoderConfig(
        vocab_size=10, width=4, layers=2, heads=2, kv_heads=1, head_dim=2, mlp_width=3
    )
    plan = make_plan(Boxes(64, 32, 2).lengths, batch_size=1, num_steps=1)
    # 128 tokens, 64 of them scored. A layer: queries and output 4 x 4 each, keys and values 4 x 2
    # each, and three matrices of 4 x 3: 84 numbers. Pairs: 64^2 / 2 of the prompt, and for each of
    # two responses 32 x (64 + 16).
    blocks, head = 2 * 2 * 128 * 84, 2 * 64 * 4 * 10
    attention = 2 * 4 * (2048 + 2 * 32 * 80) * 4
    assert operations(config, plan, recomputed=False) == 3 * (blocks + attention + head)
    expected = 4 * (blocks + attention) + 3 * head
    assert operations(config, plan, recomputed=True) == expected


def test_of_several_experts_those_are_counted_that_a_token_goes_through():
    config = DecoderConfig(
        vocab_size=10, width=4, layers=2, heads=2, kv_heads=1, head_dim=2, mlp_width=3,
        experts=Experts(count=5, per_token=2),
    )  # fmt: skip
    plan = make_plan(Boxes(64, 32, 2).lengths, batch_size=1, num_steps=1)
    # As above, but an MLP is a router of 4 x 5 and, for each of two experts, three matrices of
    # 4 x 3: with attention's 48, 140 numbers.
    blocks, head = 2 * 2 * 128 * 140, 2 * 64 * 4 * 10
    attention = 2 * 4 * (2048 + 2 * 32 * 80) * 4
    assert operations(config, plan, recomputed=False) == 3 * (blocks + attention + head)


def test_lengths_that_are_not_given_fill_the_limit(tmp_path):
    made = tiny(tmp_path)
    assert boxes_of(made, None, None, None) == Boxes(128, 128, 2)
    assert boxes_of(tiny(tmp_path, method=SFT()), 30, 10, None) == Boxes(30, 10, 1)


def test_gpus_are_planned_by_cpus_in_their_place(tmp_path):
    made = dataclasses.replace(tiny(tmp_path), mesh=Mesh(data=1, fsdp=4))
    found = forecast(made, topology("h100:4"), Boxes(32, 16, 2))
    # Four of NVIDIA's H100 SXM: 989.4 TFLOP a second each, and 900 GB a second, half of it out.
    assert found.compute == pytest.approx(found.flops / 4 / 989.4e12)
    sent = sum(one.sent for one in found.traffic)
    assert sent > 0
    assert found.links == pytest.approx(sent / 450e9)
    said = "\n".join(part for part in tables(found) if isinstance(part, str))
    assert "what is temporary is XLA:CPU's" in said
    assert "h100:4[/]: [green]fits[/]" in said
    assert "of 80.0 GiB" in said


def test_the_command_plans_for_devices_that_are_not_there(tmp_path):
    model = model_directory(tmp_path / "model")
    (model / "model.safetensors").unlink()  # a shape is all that is read
    config = tmp_path / "config.py"
    config.write_text(
        f"""
from alignax.config import Data, Experiment, Model
from alignax.data.tokenise import TokenLimits
from alignax.methods import DPO
from alignax.train.loop import Loop
from alignax.train.sharding import Mesh

def experiment():
    return Experiment(
        method=DPO(beta=0.1), model=Model(model_name_or_path="{model}"),
        data=Data(train="none.jsonl", limits=TokenLimits(max_length=64)),
        loop=Loop(batch_size=8), mesh=Mesh(data=1, fsdp=-1),
        output_dir="{tmp_path}/run",
    )
"""
    )
    command = [sys.executable, "-m", "alignax.cli", "plan", str(config), "--topology", "cpu:4"]
    done = subprocess.run(
        [*command, "--prompt", "32", "--response", "16"],
        cwd=ROOT, env=os.environ | {"XLA_FLAGS": "", "COLUMNS": "100"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cpu:4: fits" in done.stdout
    # 8 groups of 32 + 2 x 16 tokens.
    assert "512 tokens" in done.stdout
    assert "all-gather" in done.stdout
    assert not (tmp_path / "run").exists()
