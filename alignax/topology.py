"""Devices that are not at hand: their names, what they hold and how fast they are."""

import math
import os
import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from alignax.core.errors import BadInput

GIB = 2**30


class Chip(NamedTuple):
    """One accelerator, as its maker states it.

    Fields:
        memory: bytes. flops: a second, bfloat16. bandwidth: bytes a second from memory.
        links: bytes a second to other chips, all links together, one way.
    """

    memory: float
    flops: float
    bandwidth: float
    links: float


# From docs.cloud.google.com/tpu/docs/v5e, v5p-training and v6e, read 2026-11-25; half of what they
# call bidirectional. The links of a v4 were found on no page: 2,400 Gbit/s are from memory.
CHIPS = {
    "v4": Chip(32 * GIB, 275e12, 1228e9, 300e9),
    "v5e": Chip(16 * GIB, 197e12, 819e9, 200e9),
    "v5p": Chip(95 * GIB, 459e12, 2765e9, 600e9),
    "v6e": Chip(32 * GIB, 918e12, 1638e9, 400e9),
}

# The SXM boards of NVIDIA's data sheets: bfloat16 without sparsity, one way of NVLink. The A100 is
# that of 80 GB. Read on 2026-11-25 where others quote them (glennklockwood.com/garden/processors).
GPUS = {
    "a100": Chip(80 * GIB, 312e12, 2039e9, 300e9),
    "h100": Chip(80 * GIB, 989.4e12, 3350e9, 450e9),
}
HOST = 8  # GPUs that NVLink joins; what lies between hosts is their owner's choice


class Topology(NamedTuple):
    """Devices to compile for.

    Fields:
        name: as it was given.
        devices: of JAX, to make a mesh of; nothing need run on them.
        chip: what each is; None for CPUs, of which nothing is known.
    """

    name: str
    devices: list[Any]
    chip: Chip | None

    @property
    def stands_in(self) -> bool:
        """Whether the devices are CPUs in place of GPUs: JAX compiles for a GPU on a GPU only."""
        return self.chip is not None and self.devices[0].platform == "cpu"


def parse(name: str) -> tuple[str, tuple[int, ...]]:
    """The version and the extents of a name such as `v5e:16x16`, `v5p:4x4x8`, `h100:8`, `cpu:8`.

    Raises:
        BadInput: any other name.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    version, extents = match.groups() if match else ("", "")
    sizes = tuple(int(x) for x in extents.split("x")) if extents else ()
    wanted = {"v5e": 2, "v6e": 2, "v4": 3, "v5p": 3, "cpu": 1, "a100": 1, "h100": 1}.get(version)
    beyond = version in GPUS and sizes > (HOST,)
    if wanted is None or len(sizes) != wanted or 0 in sizes or beyond:
        raise BadInput(
            "a topology such as v5e:16x16, v6e:8x8, v4:4x4x8, v5p:4x4x8, h100:8, a100:8 or cpu:8",
            name or "nothing",
            "v5e and v6e have two extents, v4 and v5p three; GPUs are of one host, at most "
            f"{HOST}.",
            where="--topology",
        )
    return version, sizes


def accelerator_type(version: str, sizes: tuple[int, ...]) -> str:
    """What Google calls a slice: by its chips, and on v4 and v5p by its cores, two to a chip."""
    number = math.prod(sizes) * (2 if version in ("v4", "v5p") else 1)
    return f"{'v5litepod' if version == 'v5e' else version}-{number}"


def prepare(name: str) -> None:
    """Sets what JAX and libtpu read before the first device is asked for."""
    version, sizes = parse(name)
    jax.config.update("jax_platforms", "cpu")
    # What is compiled for devices that are not there cannot be read back for them.
    jax.config.update("jax_enable_compilation_cache", False)
    if version == "cpu" or version in GPUS:
        jax.config.update("jax_num_cpu_devices", sizes[0])
        return
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # asks no server which machine this is
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # Where libtpu does not know the slice it is on, it says so on every start.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", accelerator_type(version, sizes))
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nothing runs that others could hold


def topology(name: str) -> Topology:
    """Devices by their name; `prepare` was called before.

    Raises:
        BadInput: libtpu is not installed, or knows no such topology.
    """
    version, sizes = parse(name)
    if version == "cpu" or version in GPUS:
        return Topology(name, jax.devices("cpu")[: sizes[0]], GPUS.get(version))
    try:
        # As many chips to a host as all full slices of a version have.
        hosts = {"v5e": (2, 2, 1), "v6e": (2, 2, 1), "v4": (2, 2, 1), "v5p": (2, 2, 1)}[version]
        made = topologies.get_topology_desc(
            platform="tpu",
            topology_name=name,
            chips_per_host_bounds=tuple(
                min(a, b) for a, b in zip(hosts, (*sizes, 1), strict=False)
            ),
        )
    except Exception as error:  # of many kinds: no libtpu, another version of it, no such slice
        raise BadInput(
            "a topology that libtpu compiles for",
            f"{name}: {str(error).splitlines()[0][:200]}",
            "pip install -e '.[tpu]' in the clone gives libtpu, on Linux; name a slice that is "
            "offered.",
            where="--topology",
        ) from error
    return Topology(name, list(made.devices), CHIPS[version])
