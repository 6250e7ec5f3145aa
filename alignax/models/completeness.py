"""Whether a checkpoint's tensors are those of its model: all of them, in their shapes."""

import logging

import numpy as np

from alignax.core.errors import BadInput
from alignax.models import files
from alignax.models.config import DecoderConfig
from alignax.models.families import FAMILIES, tensor_shapes

log = logging.getLogger(__name__)
_ROWS = 4096  # of two matrices that are compared, held at a time


def check(checkpoint: files.Checkpoint, config: DecoderConfig, family: str) -> None:
    """Refuses weights that do not belong to a config, and names those that have no place in it.

    A prefix that the family may leave out is put back on the checkpoint's own names.

    Raises:
        BadInput: a tensor is missing, of another shape, or a head that is not the embedding, which
            the config says it is.
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
    # A reward model passes over it, whatever it holds.
    second = head in checkpoint.tensors and head not in expected and not config.num_scores
    if second and not _is_same(checkpoint, head, embedding):
        raise BadInput(
            f"no {head}, or one that equals {embedding}: by config.json they are one matrix",
            "another matrix",
            "Set tie_word_embeddings: false in config.json: transformers does not tie them either. "
            "Or take the tensor out of the file.",
            where=str(checkpoint.directory / checkpoint.tensors[head].file),
        )
    extra = [
        name
        for name in checkpoint.tensors
        if name not in expected and name != head and not name.endswith(names.dropped)
    ]
    if extra:
        shown = ", ".join(extra[:3])
        log.warning("%s: passing over %d tensors that the model has no place for: %s",
                    checkpoint.directory, len(extra), shown)  # fmt: skip


def _is_same(checkpoint: files.Checkpoint, name: str, embedding: str) -> bool:
    shape = checkpoint.tensors[name].shape
    if shape != checkpoint.tensors[embedding].shape:
        return False
    starts = range(0, shape[0], _ROWS)
    parts = ((slice(i, min(i + _ROWS, shape[0])), slice(None)) for i in starts)
    return all(
        np.array_equal(checkpoint.fetch(name, part), checkpoint.fetch(embedding, part))
        for part in parts
    )
