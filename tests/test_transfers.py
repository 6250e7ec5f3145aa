"""Nothing goes to the devices or comes back unasked while updates run."""

import dataclasses

import jax
import pytest

from alignax import jobs
from alignax.methods import GRPO
from alignax.models.lora import LoRA
from alignax.train.loop import Loop
from tests.test_online_runs import setup as sampling
from tests.tiny_model import experiment as tiny

LOOP = Loop(batch_size=8, max_steps=4)


def offline(folder):
    return tiny(folder, loop=LOOP)


def adapter(folder):
    return tiny(folder, loop=LOOP, adapter=LoRA(rank=2))


def sampled(folder):
    return sampling(folder, GRPO(num_samples=4, beta=0.1), loop={"max_steps": 4})


@pytest.mark.parametrize("made", [offline, adapter, sampled])
def test_an_update_takes_what_is_on_the_devices_and_leaves_its_metrics_there(
    made, tmp_path, monkeypatch
):
    guarded, make = [], jobs.make_compiled_step

    def making(*arguments, **named):
        step = make(*arguments, **named)

        def watched(*given):
            # What is compiled may bring its constants along.
            known = str(jax.tree.map(jax.typeof, given))
            first, level = known not in guarded, "disallow"
            guarded.append(known)
            with jax.transfer_guard("allow" if first else level):
                return step(*given)

        return watched

    monkeypatch.setattr(jobs, "make_compiled_step", making)
    experiment = made(tmp_path)
    jobs.train(
        dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, eval=None)),
        quiet=True,
    )
    assert len(guarded) == 4
    assert len(set(guarded)) < 4  # so some updates were under guard


def test_the_guard_would_object_to_a_number_of_the_host():
    step = jax.jit(lambda x, y: x * y)
    x = jax.device_put(1.0)
    step(x, 2.0)
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="Disallowed host-to-dev"):
        step(x, 3.0)
