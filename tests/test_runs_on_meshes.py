"""A run on another mesh, or with other micro-batches, is the same run but for rounding."""

import dataclasses
import shutil

import pytest

from alignax import jobs
from alignax.config import Evaluation
from alignax.train.loop import Loop
from alignax.train.optim import Optim
from alignax.train.sharding import Mesh
from tests.run_files import updates
from tests.tiny_model import experiment as tiny

ONE = Mesh(data=1)


def whole_data(folder, output, **changes):
    """A run in which each step is all 24 pairs, so that it does not matter how they are dealt.

    Plain gradient descent: Adam would divide the rounding of a gradient near 0 by itself.
    """
    loop = Loop(**({"batch_size": 24, "max_steps": 3} | changes.pop("loop", {})))
    optim = Optim(learning_rate=0.05, optimizer="sgd", lr_scheduler_type="constant")
    changes["evaluation"] = Evaluation(num_prompts=0)
    jobs.train(
        tiny(folder, output_dir=str(folder / output), loop=loop, optim=optim, **changes),
        quiet=True,
    )
    return updates(folder / output)


def test_micro_batches_and_meshes_change_nothing_but_rounding(tmp_path):
    whole = whole_data(tmp_path, "whole", mesh=ONE)
    micro = whole_data(tmp_path, "micro", mesh=ONE, loop={"gradient_accumulation_steps": 2})
    eight = whole_data(tmp_path, "eight", mesh=Mesh(data=2, fsdp=2, tensor=2))
    assert whole[0]["loss"] > whole[1]["loss"] > whole[2]["loss"]
    for other in (micro, eight):
        assert other[0]["loss"] == pytest.approx(whole[0]["loss"], abs=1e-6)
        for one, two in zip(whole, other, strict=True):
            assert one.keys() == two.keys()
            for name in one:
                if name == "rewards/accuracies" and one["step"] == 1:
                    continue  # policy equals reference: the sign of a rounding error
                assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-5), name


def test_a_run_on_eight_devices_can_go_on_on_one(tmp_path):
    """Two of four steps on a mesh, saved; what comes back on one device is theirs."""
    eight = tiny(
        tmp_path, mesh=Mesh(data=2, fsdp=2, tensor=2), loop=Loop(batch_size=8, max_steps=2)
    )
    jobs.train(eight, quiet=True)
    one = dataclasses.replace(eight, mesh=ONE)
    jobs.export_newest(one, tmp_path / "exported", quiet=True)
    names = ("model.safetensors", "config.json")
    assert [(tmp_path / "exported" / name).read_bytes() for name in names] == [
        (tmp_path / "run" / "export" / name).read_bytes() for name in names
    ]


def test_a_run_goes_on_on_another_mesh_and_with_other_micro_batches_as_it_would_have(tmp_path):
    """Three steps are an epoch: on either side of the break at step 4 every group is met once."""
    settings = {
        "optim": Optim(learning_rate=0.05, optimizer="sgd", lr_scheduler_type="constant"),
        "evaluation": Evaluation(num_prompts=0),
    }
    loop = Loop(batch_size=8, max_steps=6, save_steps=2, keep=3)
    whole = tiny(tmp_path, mesh=ONE, loop=loop, output_dir=str(tmp_path / "whole"), **settings)
    jobs.train(whole, quiet=True)
    begun = dataclasses.replace(
        whole, mesh=Mesh(data=2, fsdp=2, tensor=2), output_dir=str(tmp_path / "broken")
    )
    jobs.train(begun, quiet=True)
    shutil.rmtree(tmp_path / "broken" / "checkpoint-6")
    shutil.rmtree(tmp_path / "broken" / "export")
    micro = dataclasses.replace(loop, gradient_accumulation_steps=2)
    jobs.train(dataclasses.replace(begun, mesh=ONE, loop=micro), quiet=True)
    for one, two in zip(updates(tmp_path / "whole"), updates(tmp_path / "broken"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["logps/chosen"] == pytest.approx(one["logps/chosen"], rel=1e-5)
