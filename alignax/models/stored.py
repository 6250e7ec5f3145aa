"""Where every parameter lies in a Hugging Face checkpoint, and how it is turned round on the way.

A checkpoint has one matrix a layer, [outputs, inputs], with the heads flattened into one axis.
Here the layers are stacked, the inputs come first and the heads are an axis of their own. Both
ways are the same permutation, and a part of a parameter needs only a part of the tensor.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from alignax.models.config import DecoderConfig

SCORE = "score.weight"  # the head of what transformers calls a sequence classifier

# (tensor's name, one slice an axis) -> that part of it
Fetch = Callable[[str, tuple[slice, ...]], np.ndarray]


class Stored(NamedTuple):
    """One parameter's place in a checkpoint.

    Fields:
        path: in the tree of parameters.
        names: of its tensors: one a layer, or a single one where it is not stacked.
        shape: of the parameter, without the axis of layers.
        axes: for each axis of a tensor, the axes of the parameter that it flattens.

    Example: the query kernel [d, h, e] is stored as [h * e, d], so its axes are ((1, 2), (0,)).
    """

    path: tuple[str, ...]
    names: tuple[str, ...]
    shape: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]

    @property
    def stacked(self) -> bool:
        """Whether the parameter has an axis of layers before `shape`."""
        return self.path[0] == "layers"

    @property
    def full_shape(self) -> tuple[int, ...]:
        """The parameter's shape, layers included."""
        return (len(self.names), *self.shape) if self.stacked else self.shape

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of each tensor in the checkpoint."""
        return tuple(math.prod(self.shape[a] for a in group) for group in self.axes)

    def to_stored(self, x: np.ndarray) -> np.ndarray:
        """One layer of the parameter, as the checkpoint has it."""
        order = [a for group in self.axes for a in group]
        return x.transpose(order).reshape(self.stored_shape)

    def read(self, index: tuple[slice, ...], fetch: Fetch, dtype: np.dtype) -> np.ndarray:
        """The part `index` of the parameter, from the parts of the tensors that hold it.

        Where an axis flattens several, the outermost one's range is fetched whole and the others
        are cut in memory: that is exact to the byte for parameters split over layers, inputs or
        heads.
        """
        index = tuple(slice(*s.indices(n)) for s, n in zip(index, self.full_shape, strict=True))
        names = self.names[index[0]] if self.stacked else self.names
        within = index[1:] if self.stacked else index
        out = np.empty((len(names), *(s.stop - s.start for s in within)), dtype)
        for i, name in enumerate(names):
            out[i] = self._read_layer(name, within, fetch)
        return out if self.stacked else out[0]

    def _read_layer(self, name: str, index: tuple[slice, ...], fetch: Fetch) -> np.ndarray:
        ranges, fetched, cut = [], [], []
        for outer, *inner in self.axes:
            step = math.prod(self.shape[a] for a in inner)
            ranges.append(slice(index[outer].start * step, index[outer].stop * step))
            fetched += [index[outer].stop - index[outer].start, *(self.shape[a] for a in inner)]
            cut += [slice(None), *(index[a] for a in inner)]
        order = [a for group in self.axes for a in group]
        part = fetch(name, tuple(ranges)).reshape(fetched)[tuple(cut)]
        return part.transpose(np.argsort(order))


def stored(config: DecoderConfig) -> tuple[Stored, ...]:
    """Every parameter of a decoder, under the names that Llama and Mistral share."""
    width, heads, kv_heads, dim = config.width, config.heads, config.kv_heads, config.head_dim
    matrix = ((0,), (1,))
    found = [
        Stored(("embed",), ("model.embed_tokens.weight",), (config.vocab_size, width), matrix),
        Stored(("norm", "scale"), ("model.norm.weight",), (width,), ((0,),)),
    ]
    if config.num_scores:
        found.append(Stored(("score",), (SCORE,), (config.num_scores, width), matrix))
    elif not config.tied:
        found.append(Stored(("head",), ("lm_head.weight",), (config.vocab_size, width), matrix))

    def add(path: str, name: str, shape: tuple[int, ...], axes: tuple[tuple[int, ...], ...]):
        names = tuple(f"model.layers.{i}.{name}" for i in range(config.layers))
        found.append(Stored(("layers", *path.split("/")), names, shape, axes))

    def linear(path: str, name: str, inputs: tuple[int, ...], outputs: tuple[int, ...], bias: bool):
        into = tuple(range(len(inputs)))
        out = tuple(range(len(inputs), len(inputs + outputs)))
        add(f"{path}/kernel", f"{name}.weight", inputs + outputs, (out, into))
        if bias:
            add(f"{path}/bias", f"{name}.bias", outputs, (tuple(range(len(outputs))),))

    biases, mlp_width = config.attention_bias, config.mlp_width
    add("attention_norm/scale", "input_layernorm.weight", (width,), ((0,),))
    linear("attention/query", "self_attn.q_proj", (width,), (heads, dim), biases)
    linear("attention/key", "self_attn.k_proj", (width,), (kv_heads, dim), biases)
    linear("attention/value", "self_attn.v_proj", (width,), (kv_heads, dim), biases)
    linear("attention/out", "self_attn.o_proj", (heads, dim), (width,), biases)
    add("mlp_norm/scale", "post_attention_layernorm.weight", (width,), ((0,),))
    linear("mlp/gate", "mlp.gate_proj", (width,), (mlp_width,), config.mlp_bias)
    linear("mlp/up", "mlp.up_proj", (width,), (mlp_width,), config.mlp_bias)
    linear("mlp/down", "mlp.down_proj", (mlp_width,), (width,), config.mlp_bias)
    return tuple(found)
