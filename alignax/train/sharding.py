"""The mesh, and where every parameter lies on it.

Parameters name their logical axes in `models/`; one mapping takes these to mesh axes. Rows are
split over `data` and `fsdp`, the tokens of a row over `sequence`; parameters over all but `data`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import optax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from alignax.core.axes import ROW_AXES
from alignax.core.errors import BadInput
from alignax.core.types import ROW_ALIGN, Params, TrainState

RULES = {
    "vocab": ("tensor",),
    "embed": ("fsdp", "sequence"),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "head_dim": (),
    "layers": (),
    "scores": (),
    "positions": (),
    "experts": (),
    "rank": (),
}


AXES = ("data", "fsdp", "sequence", "tensor")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """How many devices each mesh axis has; -1 for one axis takes what is left.

    Fields:
        data: copies of the parameters, each with its own rows.
        fsdp: parts of the parameters, each with its own rows, gathered layer by layer.
        sequence: parts of the tokens of each row, for long ones; a power of two up to 64. Tokens
            are exchanged for heads within attention, so it and `tensor` divide the heads of keys.
            Parameters are divided as by `fsdp`.
        tensor: parts of heads, MLP and vocabulary that work on the same rows.
    """

    data: int = -1
    fsdp: int = 1
    sequence: int = 1
    tensor: int = 1

    def sizes(self, devices: int) -> tuple[int, int, int, int]:
        """The number of devices on each axis."""
        sizes = [self.data, self.fsdp, self.sequence, self.tensor]
        known = math.prod(size for size in sizes if size != -1)
        if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes) or devices % known:
            raise BadInput(
                f"axes whose product divides {devices} devices, one of them -1 at most",
                ", ".join(f"{name}={size}" for name, size in zip(AXES, sizes, strict=True)),
                "Leave data at -1 to take what the others leave.",
                where="mesh",
            )
        found = tuple(devices // known if size == -1 else size for size in sizes)
        if ROW_ALIGN % found[2]:
            raise BadInput(
                f"a divisor of {ROW_ALIGN}, to whose multiples rows are filled up",
                str(found[2]),
                "Set it to a power of two.",
                where="mesh.sequence",
            )
        return found  # type: ignore


def make_mesh(mesh: Mesh, devices: list[jax.Device] | None = None) -> jax.sharding.Mesh:
    """A mesh with the axes of `Mesh`; devices that the axes leave over stay idle."""
    devices = jax.devices() if devices is None else devices
    sizes = mesh.sizes(len(devices))
    check_processes(sizes, [device.process_index for device in devices])
    # `jax.make_mesh` refuses axes that are no product of a slice's own, such as 64 of 4 x 4 x 8.
    arranged = mesh_utils.create_device_mesh(
        sizes, devices[: math.prod(sizes)], allow_split_physical_axes=True
    )
    # Auto: the partitioner completes what the constraints leave open.
    return jax.sharding.Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_processes(sizes: Sequence[int], owners: Sequence[int]) -> None:
    """Refuses a mesh that leaves a process without a device: it would hold no part of any array.

    Args:
        sizes: devices on each axis.
        owners: the process of each device, in the order in which they are taken.
    """
    used = math.prod(sizes)
    idle = sorted(set(owners) - set(owners[:used]))
    if idle:
        would_do = [
            n for n in _divisors(len(owners), len(owners)) if set(owners[:n]) == set(owners)
        ]
        raise BadInput(
            f"axes whose product takes devices of each of {len(set(owners))} processes",
            f"{used} of {len(owners)} devices, none of process {', '.join(map(str, idle))}",
            f"Set the product to {' or '.join(map(str, would_do))}, as data=-1 does; or start "
            "fewer processes.",
            where="mesh",
        )


def shards(mesh: jax.sharding.Mesh) -> int:
    """How many parts the rows of a batch are split into."""
    return math.prod(mesh.shape[name] for name in ROW_AXES)


def rows(mesh: jax.sharding.Mesh, *, leading: int = 0) -> NamedSharding:
    """For arrays whose axis number `leading` counts rows or prompts."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading, ROW_AXES))


def own_shards(mesh: jax.sharding.Mesh) -> frozenset[int]:
    """Which parts of the rows lie on devices of this process."""
    parts = mesh.devices.reshape(shards(mesh), -1)
    mine = jax.process_index()
    return frozenset(i for i, p in enumerate(parts) if any(d.process_index == mine for d in p))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """For arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def stacked(place: NamedSharding) -> NamedSharding:
    """For an array with an axis more before all others, which lies whole on every device."""
    return NamedSharding(place.mesh, PartitionSpec(None, *place.spec))


def parameters(
    mesh: jax.sharding.Mesh, abstract: Params, axes: Params, *, gathered: bool = False
) -> Params:
    """The sharding of each parameter, from its logical axes.

    Args:
        gathered: whole on all axes but `tensor`, as for decoding, where every product of one token
            would gather its weights anew.

    Raises:
        BadInput: a parameter whose axis its mesh axis does not divide, by name. Held whole, it
            would cost on every device what the mesh was made to save.
    """

    def place(path: Any, shape: Any, names: tuple[str, ...]) -> NamedSharding:
        spec: list[tuple[str, ...]] = []
        for size, name in zip(shape.shape, names, strict=True):
            split = tuple(x for x in RULES[name] if mesh.shape[x] > 1 or len(RULES[name]) == 1)
            if gathered and split != ("tensor",):
                split = ()
            parts = math.prod(mesh.shape[x] for x in split)
            if size % parts:
                axes = [f"mesh.{x}" for x in split]
                raise BadInput(
                    f"a size that divides axis {name} ({size}) of "
                    f"{jax.tree_util.keystr(path, simple=True, separator='/')}",
                    str(parts),
                    f"Set {' times '.join(axes)} to one of {', '.join(map(str, _divisors(size)))}.",
                    where=axes[0],
                )
            spec.append(() if split in spec else split)
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(place, abstract, axes)


def check_heads(mesh: jax.sharding.Mesh, kv_heads: int) -> None:
    """Refuses to split tokens where heads cannot take their place within attention."""
    parts = mesh.shape["sequence"] * mesh.shape["tensor"]
    if mesh.shape["sequence"] > 1 and kv_heads % parts:
        raise BadInput(
            f"sequence times tensor to divide the model's {kv_heads} heads of keys and values",
            f"{mesh.shape['sequence']} times {mesh.shape['tensor']}",
            f"Set the product to one of {', '.join(map(str, _divisors(kv_heads)))}.",
            where="mesh.sequence",
        )


def _divisors(size: int, most: int = 512) -> list[int]:
    return [n for n in range(1, min(size, most) + 1) if size % n == 0]


def unstacked(shardings: Params, layers: int) -> Params:
    """The shardings of parameters whose layers are not stacked, as `Decoder.unstack` has them."""
    one = jax.tree.map(
        lambda place: NamedSharding(place.mesh, PartitionSpec(*place.spec[1:])),
        shardings["layers"],
    )
    return shardings | {"layers": (one,) * layers}


def state(
    mesh: jax.sharding.Mesh, param_shardings: Params, optimizer: Any, abstract: Params
) -> Any:
    """A `TrainState` of shardings; moments lie where their parameters do."""
    whole = replicated(mesh)
    opt_state = optax.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, abstract),
        param_shardings,
        transform_non_params=lambda _: whole,
    )
    fields: Any = (whole, param_shardings, opt_state)  # shardings where the type says arrays
    return TrainState(*fields)
