"""What an update takes elsewhere: for every method, and refused where it cannot be."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from alignax import methods, programs
from alignax.core.errors import BadInput
from alignax.forecast import (
    Boxes,
    _wanted,
    arithmetic,
    boxes_of,
    by_shape,
    forecast,
    update,
)
from alignax.generate.reward_rules import Length
from alignax.generate.rewards import Rewards
from alignax.generate.rollout import Rollout
from alignax.methods import GRPO, KTO, PPO, RSO, SFT, AttributeRewardModel, ReMax
from alignax.planning import tables
from alignax.topology import accelerator_type, parse, topology
from alignax.train.sharding import Mesh
from tests.conftest import ROOT
from tests.tiny_model import experiment as tiny
from tests.tiny_model import model_directory

REWARDS = Rewards(parts=(Length(target=3.0, width=1.0),))


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


def test_lengths_that_are_not_given_fill_the_limit(tmp_path):
    made = tiny(tmp_path)
    assert boxes_of(made, None, None, None) == Boxes(128, 128, 2)
    assert boxes_of(tiny(tmp_path, method=SFT()), 30, 10, None) == Boxes(30, 10, 1)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("size", [0, -5])
def test_sizes_below_one_are_refused_by_their_options(place, size, tmp_path):
    sizes = [None, None, None]
    sizes[place] = size
    with pytest.raises(BadInput) as error:
        boxes_of(tiny(tmp_path), *sizes)
    assert error.value.where == ("--prompt", "--response", "--responses")[place]
    assert error.value.got == str(size)


def test_a_compiler_is_asked_for_what_suits_the_devices_that_are_planned_for(tmp_path, monkeypatch):
    asked = []

    def options(**_):
        asked.append(dict(jax.sharding.get_abstract_mesh().shape))

    monkeypatch.setattr(programs, "update_options", options)
    made = tiny(tmp_path)
    made = update(made, topology("cpu:1"), boxes_of(made, None, None, None))
    assert asked == [dict(made.run.mesh.shape)]
    assert asked[0]  # and not the empty shape of no mesh


def test_sampled_responses_are_as_long_as_they_are_sampled(tmp_path):
    made = tiny(tmp_path, method=GRPO(), rollout=Rollout(rewards=REWARDS, max_new_tokens=100))
    assert boxes_of(made, None, None, None) == Boxes(128, 100, 8)
    made = dataclasses.replace(made, rollout=Rollout(rewards=REWARDS, max_new_tokens=200))
    assert boxes_of(made, None, None, None) == Boxes(56, 200, 8)


@pytest.mark.parametrize(
    ("method", "responses"),
    [
        (KTO(), 2),  # the second does not belong to the prompt
        (AttributeRewardModel(), 1),
        (ReMax(num_samples=4), 3),  # without the greedy one
        (RSO(), 2),  # pairs, whatever was drawn
    ],
)
def test_a_group_has_as_many_responses_as_the_method_learns_from(method, responses, tmp_path):
    found = boxes_of(tiny(tmp_path, method=method), None, None, None)
    assert found.responses == responses


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """An experiment without weights or data."""
    made = tiny(tmp_path_factory.mktemp("base"))
    for name in ("model/model.safetensors", "train.jsonl", "test.jsonl"):
        (pathlib.Path(made.output_dir).parent / name).unlink()
    return made


@pytest.mark.parametrize("cls", methods.ALL, ids=lambda cls: cls.__name__)
def test_the_update_of_every_method_is_made_of_shapes_alone(cls, base):
    made = dataclasses.replace(base, method=cls())
    boxes = boxes_of(made, 32, 16, None)
    found = update(made, topology("cpu:1"), boxes)
    with jax.set_mesh(found.run.mesh):
        state, metrics = jax.eval_shape(found.step, found.state, *found.arrays)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert shapes(state) == shapes(found.state)
    assert metrics["loss"].shape == ()


def test_a_critic_is_counted_like_the_policy_but_for_its_head(base):
    """What is given, and the inputs of blocks; and in arithmetic its head of one output."""
    alone, both = (
        update(dataclasses.replace(base, method=x), topology("cpu:1"), Boxes(32, 16, 1))
        for x in (SFT(), PPO())
    )
    assert by_shape(both)["block_inputs"] == 2 * by_shape(alone)["block_inputs"]
    # Of width 32, 8 responses of 16 tokens meet the policy's vocabulary of 320, and the tokens of 8
    # groups of 48 the critic's one output.
    policy, critic = 3 * 2 * 8 * 16 * 32 * 320, 3 * 2 * 8 * 48 * 32
    assert arithmetic(both) - critic == 2 * (arithmetic(alone) - policy) + policy


def test_what_the_compiler_would_need_is_read_from_its_refusal():
    """As XLA:TPU words it (libtpu 0.0.42)."""
    said = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 24.50{} of 15.75G hbm. Exceeded hbm capacity by 8.75G."
    )
    assert _wanted(said.format("G")) == 24.5 * 2**30
    assert _wanted(said.format("M")) == 24.5 * 2**20
    assert _wanted(said.format("K")) == 24.5 * 2**10


def test_another_refusal_of_the_compiler_is_told():
    with pytest.raises(BadInput, match="a program that compiles; got INTERNAL: it is broken"):
        _wanted("INTERNAL: it is broken\nsomewhere")


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
    assert "cpu:4: no limit of memory is known, 0.0" in done.stdout
    # 8 groups of 32 + 2 x 16 tokens.
    assert "512 tokens" in done.stdout
    assert "all-gather" in done.stdout
    assert not (tmp_path / "run").exists()
