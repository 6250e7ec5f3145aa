"""What a run has left in its directory, read for a test."""

import json

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def updates(output):
    """The lines of metrics.jsonl that the updates wrote, in order."""
    return [line for line in lines(output / "metrics.jsonl") if "loss" in line]


def held_out(output):
    """The lines of metrics.jsonl that evaluations wrote, by step."""
    return {x["step"]: x for x in lines(output / "metrics.jsonl") if "eval_loss" in x}


def arrays(checkpoint):
    """Every array of a checkpoint, by name."""
    record = json.loads((checkpoint / "alignax.json").read_text())
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
        for name, (shape, dtype) in record["leaves"].items()
    }
    return {name: np.asarray(x) for name, x in ocp.load(checkpoint, wanted).items()}
