"""Parameters lie where their logical axes say, and their moments with them."""

import dataclasses
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from alignax.core.errors import BadInput
from alignax.methods import PPO
from alignax.models.config import DecoderConfig
from alignax.models.transformer import Decoder
from alignax.run import Run
from alignax.train import sharding
from alignax.train.optim import Optim, make_optimizer
from alignax.train.sharding import Mesh, make_mesh
from tests.tiny_model import experiment, model_directory


def decoder(**changes) -> Decoder:
    shape = {"vocab_size": 40, "width": 16, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8,
             "mlp_width": 24}  # fmt: skip
    return Decoder(config=DecoderConfig(**(shape | changes)))


@pytest.mark.parametrize(
    ("mesh", "sizes"),
    [
        (Mesh(), (8, 1, 1, 1)),
        (Mesh(fsdp=4), (2, 4, 1, 1)),
        (Mesh(data=1, fsdp=-1), (1, 8, 1, 1)),
        (Mesh(data=2, fsdp=2, tensor=-1), (2, 2, 1, 2)),
        (Mesh(sequence=4), (2, 1, 4, 1)),
        (Mesh(data=2, fsdp=1, tensor=2), (2, 1, 1, 2)),  # four of eight stay idle
    ],
)
def test_one_axis_may_take_what_the_others_leave(mesh, sizes):
    assert mesh.sizes(8) == sizes


@pytest.mark.parametrize(
    "mesh", [Mesh(data=3), Mesh(data=-1, fsdp=-1), Mesh(tensor=0), Mesh(fsdp=-2), Mesh(data=16)]
)
def test_axes_that_do_not_divide_the_devices_are_refused(mesh):
    with pytest.raises(BadInput) as error:
        mesh.sizes(8)
    assert str(error.value) == (
        "mesh: expected axes whose product divides 8 devices, one of them -1 at most; "
        f"got data={mesh.data}, fsdp={mesh.fsdp}, sequence=1, tensor={mesh.tensor}.\n"
        "    Leave data at -1 to take what the others leave."
    )


@pytest.mark.parametrize(
    ("owners", "mesh", "got", "would_do"),
    [
        # Two hosts of four; three of two; one of one beside one of three; hosts that alternate.
        ((0, 0, 0, 0, 1, 1, 1, 1), Mesh(data=1, fsdp=4), "4 of 8 devices, none of process 1", "8"),
        ((0, 0, 1, 1, 2, 2), Mesh(data=1, fsdp=2), "2 of 6 devices, none of process 1, 2", "6"),
        ((0, 1, 1, 1), Mesh(data=1), "1 of 4 devices, none of process 1", "2 or 4"),
        ((0, 1, 0, 1), Mesh(data=1), "1 of 4 devices, none of process 1", "2 or 4"),
    ],
)
def test_a_mesh_that_leaves_a_process_without_a_device_is_refused(owners, mesh, got, would_do):
    with pytest.raises(BadInput) as error:
        make_mesh(mesh, [Mock(spec=jax.Device, process_index=owner) for owner in owners])
    assert str(error.value) == (
        f"mesh: expected axes whose product takes devices of each of {len(set(owners))} processes; "
        f"got {got}.\n    Set the product to {would_do}, as data=-1 does; or start fewer processes."
    )
    sharding.check_processes((1, int(would_do[0]), 1, 1), owners)


def test_tokens_are_split_into_parts_that_divide_the_length_of_every_row():
    with pytest.raises(BadInput) as error:
        Mesh(data=1, sequence=3).sizes(3)
    assert str(error.value) == (
        "mesh.sequence: expected a divisor of 64, to whose multiples rows are filled up; got 3.\n"
        "    Set it to a power of two."
    )


def test_tokens_are_not_split_further_than_heads_can_take_their_place():
    mesh = make_mesh(Mesh(data=1, sequence=4, tensor=2))
    sharding.check_heads(mesh, kv_heads=8)
    with pytest.raises(BadInput) as error:
        sharding.check_heads(mesh, kv_heads=4)
    assert str(error.value) == (
        "mesh.sequence: expected sequence times tensor to divide the model's 4 heads of keys and "
        "values; got 4 times 2.\n    Set the product to one of 1, 2, 4."
    )
    sharding.check_heads(make_mesh(Mesh(tensor=8)), kv_heads=4)  # refused by a parameter's name


def test_a_run_refuses_a_policy_or_critic_whose_heads_cannot_take_the_tokens_place(tmp_path):
    """The tiny model has two heads of keys, the critic of the second run one."""
    made = experiment(tmp_path)
    narrow = str(model_directory(tmp_path / "narrow", kv_heads=1))
    critic = dataclasses.replace(made.model, critic_name_or_path=narrow)
    policy = dataclasses.replace(made, mesh=Mesh(data=1, sequence=8))
    both = dataclasses.replace(made, mesh=Mesh(data=1, sequence=2), method=PPO(), model=critic)
    for wrong, heads in ((policy, 2), (both, 1)):
        with pytest.raises(BadInput, match=rf"divide the model's {heads} heads of keys"):
            _ = Run(wrong, quiet=True).network


def test_a_mesh_has_four_axes_that_the_partitioner_completes():
    mesh = make_mesh(Mesh(fsdp=2, tensor=2))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "sequence": 1, "tensor": 2}
    assert mesh.axis_types == (AxisType.Auto,) * 4
    assert sharding.shards(mesh) == 4
    assert make_mesh(Mesh(data=2, fsdp=2)).devices.size == 4


def test_rows_are_split_over_data_and_fsdp_and_not_over_tensor():
    mesh = make_mesh(Mesh(fsdp=2, tensor=2))
    array = jax.device_put(np.zeros((3, 8, 5)), sharding.rows(mesh, leading=1))
    assert array.addressable_shards[0].data.shape == (3, 2, 5)
    assert len({str(s.index) for s in array.addressable_shards}) == 4


def test_logical_axes_go_to_their_mesh_axes():
    mesh, model = make_mesh(Mesh(fsdp=2, tensor=2)), decoder()
    lie = sharding.parameters(mesh, model.abstract(), model.axes())
    block = lie["layers"]
    assert {
        "embed": lie["embed"].spec,
        "head": lie["head"].spec,
        "norm": lie["norm"]["scale"].spec,
        "query": block["attention"]["query"]["kernel"].spec,
        "out": block["attention"]["out"]["kernel"].spec,
        "up": block["mlp"]["up"]["kernel"].spec,
        "down": block["mlp"]["down"]["kernel"].spec,
    } == {
        "embed": PartitionSpec("tensor", "fsdp"),
        "head": PartitionSpec("tensor", "fsdp"),
        "norm": PartitionSpec("fsdp"),
        "query": PartitionSpec(None, "fsdp", "tensor", None),
        "out": PartitionSpec(None, "tensor", None, "fsdp"),
        "up": PartitionSpec(None, "fsdp", "tensor"),
        "down": PartitionSpec(None, "tensor", "fsdp"),
    }


def test_parameters_are_divided_over_those_that_share_a_row_too():
    mesh, model = make_mesh(Mesh(data=1, fsdp=2, sequence=2, tensor=2)), decoder()
    lie = sharding.parameters(mesh, model.abstract(), model.axes())
    assert lie["embed"].spec == PartitionSpec("tensor", ("fsdp", "sequence"))
    assert lie["norm"]["scale"].spec == PartitionSpec(("fsdp", "sequence"))
    assert sharding.shards(mesh) == 2  # rows are not divided over them
    decoding = sharding.parameters(mesh, model.abstract(), model.axes(), gathered=True)
    assert decoding["embed"].spec == PartitionSpec("tensor", None)


def test_what_two_axes_cannot_divide_is_refused_with_both():
    mesh, model = make_mesh(Mesh(data=1, fsdp=2, sequence=4)), decoder(width=12)
    with pytest.raises(BadInput) as error:
        sharding.parameters(mesh, model.abstract(), model.axes())
    assert str(error.value) == (
        "mesh.fsdp: expected a size that divides axis embed (12) of embed; got 8.\n"
        "    Set mesh.fsdp times mesh.sequence to one of 1, 2, 3, 4, 6, 12."
    )


def test_a_score_head_is_split_over_its_inputs_alone():
    mesh, model = make_mesh(Mesh(fsdp=2, tensor=2)), decoder(num_scores=3)
    lie = sharding.parameters(mesh, model.abstract(), model.axes())
    assert lie["score"].spec == PartitionSpec(None, "fsdp")
    assert "head" not in lie


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"heads": 6, "kv_heads": 3},
            "mesh.tensor: expected a size that divides axis kv_heads (3) of "
            "layers/attention/key/kernel; got 2.\n    Set mesh.tensor to one of 1, 3.",
        ),
        (
            {"vocab_size": 41},
            "mesh.tensor: expected a size that divides axis vocab (41) of embed; got 2.\n"
            "    Set mesh.tensor to one of 1, 41.",
        ),
    ],
)
def test_a_parameter_that_the_mesh_does_not_divide_is_refused_by_name(changes, says):
    mesh, model = make_mesh(Mesh(fsdp=2, tensor=2)), decoder(**changes)
    with pytest.raises(BadInput) as error:
        sharding.parameters(mesh, model.abstract(), model.axes())
    assert str(error.value) == says


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "rmsprop", "sgd"])
def test_moments_lie_with_their_parameters(optimizer):
    mesh, model = make_mesh(Mesh(fsdp=2, tensor=2)), decoder()
    lie = sharding.parameters(mesh, model.abstract(), model.axes())
    transform = make_optimizer(Optim(optimizer=optimizer, weight_decay=0.1), 4, model.axes())
    state = sharding.state(mesh, lie, transform, model.abstract())
    shapes = jax.eval_shape(transform.init, model.abstract())
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(shapes)
    assert state.params is lie or state.params == lie
    assert state.step.spec == PartitionSpec()
    # Arrays of the optimiser that have a parameter's shape are its moments: one tree of them for
    # each of adamw's two and for the others' one; counts are whole everywhere.
    expected = jax.tree.leaves(lie)
    moments = [x for x, shape in zip(*map(jax.tree.leaves, (state.opt_state, shapes)), strict=True)
               if shape.shape]  # fmt: skip
    trees = {"adamw": 2, "lion": 1, "rmsprop": 1, "sgd": 0}[optimizer]
    assert moments == expected * trees
    counts = [x for x, shape in zip(*map(jax.tree.leaves, (state.opt_state, shapes)), strict=True)
              if not shape.shape]  # fmt: skip
    assert all(x.spec == PartitionSpec() for x in counts)
