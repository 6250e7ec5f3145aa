"""Whether a checkpoint's tensors are those of its model: all of them, in their shapes."""

import logging

import numpy as np

from alignax.core.errors import BadInput
from alignax.models import files
from alignax.models.config import DecoderConfig
from alignax.models.families import FAMILIES, tensor_shapes

log = logging.getLogger(__name__)


def check(checkpoint: files.Checkpoint, config: DecoderConfig, family: str) -> None:
    """Refuses weights that do not belong to a config, and names those that have no place in it.

    A prefix that the family may leave out is put back on the checkpoint's own names.

    Raises:
        BadInput: a tensor is missing, or of another shape.
    """
    names = FAMILIES[family].names
    layers = config.layers * (config.experts.count if config.experts else 1)
    if layers > len(checkpoint.tensors):
        raise BadInput(
            f"a tensor or more for each of {layers:,} layers and experts",
            f"{len(checkpoint.tensors):,}",
            "The weights do not belong to this config.json; take both from one source.",
            where=str(checkpoint.directory),
        )
    expected = tensor_shapes(config, family)
    if names.optional and not any(name.startswith(names.optional) for name in checkpoint.tensors):
        checkpoint.rename({name.removeprefix(names.optional): name for name in expected})
    missing = [name for name in expected if name not in checkpoint.tensors]
    if missing:
        raise BadInput(
            f"the tensor {missing[0]}",
            f"{len(checkpoint.tensors)} tensors, without it and {len(missing) - 1} others",
            "The weights do not belong to this config.json; take both from one source.",
            where=str(checkpoint.directory),
        )
    for name, shape in expected.items():
        checkpoint.check(name, shape)
    embedding, head = (f"{names.parts[part]}.weight" for part in ("embed", "head"))
    extra = [
        name
        for name in checkpoint.tensors
        if name not in expected
        and not name.endswith(names.dropped)
        and not (config.tied and name == head and _is_same(checkpoint, name, embedding))
        and not (config.num_scores and name == head)
    ]
    if extra:
        shown = ", ".join(extra[:3])
        log.warning("%s: passing over %d tensors that the model has no place for: %s",
                    checkpoint.directory, len(extra), shown)  # fmt: skip


def _is_same(checkpoint: files.Checkpoint, name: str, embedding: str) -> bool:
    if checkpoint.tensors[name].shape != checkpoint.tensors[embedding].shape:
        return False
    everything = (slice(None), slice(None))
    return np.array_equal(
        checkpoint.fetch(name, everything), checkpoint.fetch(embedding, everything)
    )
