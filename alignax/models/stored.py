"""Where every parameter lies in a Hugging Face checkpoint, and how it is turned round on the way.

A checkpoint has one matrix a layer, [outputs, inputs], with the heads flattened into one axis.
Here the layers are stacked, the inputs come first and the heads are an axis of their own. Both
ways are the same permutation, and a part of a parameter needs only a part of the tensor.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np

from alignax.models.config import DecoderConfig

SCORE = "score.weight"  # the head of what transformers calls a sequence classifier

# (tensor's name, one slice an axis) -> that part of it
Fetch = Callable[[str, tuple[slice, ...]], np.ndarray]


class Part(NamedTuple):
    """Where several parameters share a tensor: along one of its axes, each has a range.

    Fields:
        axis: of the parameter.
        start: where its range begins.
        total: how long the range of all of them is.
    """

    axis: int
    start: int
    total: int


class Stored(NamedTuple):
    """One parameter's place in a checkpoint.

    Fields:
        path: in the tree of parameters.
        names: of its tensors, in the order of the axes that have one tensor for each index.
        over: the lengths of these axes: layers, and experts; none where there is one tensor.
        shape: of the parameter, without these axes.
        axes: for each axis of a tensor, the axes of the parameter that it flattens.
        part: of the tensors, where they are not the parameter's alone.

    Example: the query kernel [d, h, e] is stored as [h * e, d], so its axes are ((1, 2), (0,)).
    """

    path: tuple[str, ...]
    names: tuple[str, ...]
    over: tuple[int, ...]
    shape: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]
    part: Part | None = None

    def each(self, x: np.ndarray) -> np.ndarray:
        """The parameter with one leading axis: what every tensor in `names` holds of it."""
        return x.reshape(len(self.names), *self.shape)

    @property
    def full_shape(self) -> tuple[int, ...]:
        """The parameter's shape, layers and experts included."""
        return self.over + self.shape

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of each tensor in the checkpoint."""
        sizes = self._sizes()
        return tuple(math.prod(sizes[a] for a in group) for group in self.axes)

    def to_stored(self, x: np.ndarray) -> np.ndarray:
        """What one tensor holds of the parameter, as the checkpoint has it.

        Args:
            x: of `shape`: the parameter at one layer, and one expert.
        """
        order = [a for group in self.axes for a in group]
        return x.transpose(order).reshape([math.prod(x.shape[a] for a in g) for g in self.axes])

    def fill(self, whole: np.ndarray, x: np.ndarray) -> None:
        """Writes the parameter at one layer into its part of a tensor that it shares."""
        assert self.part is not None
        order = [a for group in self.axes for a in group]
        sizes, part = self._sizes(), self.part
        opened = whole.reshape([sizes[a] for a in order])  # a view: `whole` is contiguous
        cut = [slice(None)] * len(order)
        cut[order.index(part.axis)] = slice(part.start, part.start + self.shape[part.axis])
        opened[tuple(cut)] = x.transpose(order)

    def read(self, index: tuple[slice, ...], fetch: Fetch, dtype: np.dtype) -> np.ndarray:
        """The part `index` of the parameter, from the parts of the tensors that hold it.

        Where an axis flattens several, the outermost one's range is fetched whole and the others
        are cut in memory: that is exact to the byte for parameters split over layers, inputs or
        heads.
        """
        index = tuple(slice(*s.indices(n)) for s, n in zip(index, self.full_shape, strict=True))
        outer, within = index[: len(self.over)], index[len(self.over) :]
        names = np.array(self.names, object).reshape(self.over)[(*outer, ...)]
        out = np.empty((*names.shape, *(s.stop - s.start for s in within)), dtype)
        for at in np.ndindex(names.shape):
            out[at] = self._read_one(str(names[at]), within, fetch, dtype)
        return out

    def _sizes(self) -> tuple[int, ...]:
        """The parameter's shape, were it all that its tensors hold."""
        if self.part is None:
            return self.shape
        axis, _, total = self.part
        return (*self.shape[:axis], total, *self.shape[axis + 1 :])

    def _read_one(
        self, name: str, index: tuple[slice, ...], fetch: Fetch, dtype: np.dtype
    ) -> np.ndarray:
        sizes = self._sizes()
        if self.part is not None:
            axis, start, _ = self.part
            moved = slice(index[axis].start + start, index[axis].stop + start)
            index = (*index[:axis], moved, *index[axis + 1 :])
        ranges, fetched, cut = [], [], []
        for outer, *inner in self.axes:
            step = math.prod(sizes[a] for a in inner)
            ranges.append(slice(index[outer].start * step, index[outer].stop * step))
            fetched += [index[outer].stop - index[outer].start, *(sizes[a] for a in inner)]
            cut += [slice(None), *(index[a] for a in inner)]
        order = [a for group in self.axes for a in group]
        part = fetch(name, tuple(ranges)).reshape(fetched)[tuple(cut)]
        # Converted as it lies: along the strides of a transposed array it takes three times longer.
        return part.astype(dtype, copy=False).transpose(np.argsort(order))


class Names(NamedTuple):
    """The tensors of a layout, by the parts of a decoder.

    Fields:
        parts: a part's path to its name, without .weight or .bias. Names of parts of a layer
            begin after the layer's; {} stands for the expert. Parts of one name share a tensor,
            in the order of the heads that this mapping lists them in.
        layers: of the list of layers.
        inputs_first: matrices lie [inputs, outputs].
        shared: what parts of one tensor lie beside each other in: the heads, each part's in one
            run; or each head's entries, so that every head has all parts. MLPs share their
            hidden axis.
        dropped: endings of further tensors that are no parameters, such as masks.
        optional: what begins every name but the output matrix's in some files and not in others.
    """

    parts: Mapping[str, str]
    layers: str = "model.layers"
    inputs_first: bool = False
    shared: Literal["heads", "head_dim"] = "heads"
    dropped: tuple[str, ...] = ()
    optional: str = ""


class _Parameter(NamedTuple):
    """A parameter of a decoder, shape without layers.

    Fields:
        part: its part's path.
        kind: its own name there; empty where the part is the parameter.
        inputs: how many of its axes a product sums over; the first ones, experts aside.
        shared: by what parts of one tensor lie beside each other in, the axis that is divided.
    """

    part: str
    kind: Literal["kernel", "bias", "scale", ""]
    shape: tuple[int, ...]
    inputs: int = 0
    shared: Mapping[str, int] = {}


def stored(config: DecoderConfig, names: Names) -> tuple[Stored, ...]:
    """Every parameter of a decoder, under the names of a layout."""
    found, filled = [], dict[str, int]()
    parameters = list(_parameters(config))
    for parameter in parameters:
        part, kind, shape, _, shared = parameter
        in_layers = part.split("/")[0] in ("attention", "mlp") or part.endswith("_norm")
        ending = "bias" if kind == "bias" else "weight"
        name = f"{names.parts[part]}.{ending}"
        experts = config.experts.count if "{}" in name and config.experts else 0
        over = ((config.layers,) if in_layers else ()) + ((experts,) if experts else ())
        if experts:
            shape = shape[1:]
        each = [name.format(i) for i in range(experts)] if experts else [name]
        if in_layers:
            each = [f"{names.layers}.{i}.{one}" for i in range(config.layers) for one in each]
        axes = _axes(parameter, len(shape), names.inputs_first)
        place = None
        together = [x for x in parameters if names.parts[x.part] == names.parts[part]]
        together = [x for x in together if x.kind == kind]
        if len(together) > 1:
            axis = shared["mlp" if "mlp" in shared else names.shared]
            start = filled.get(name, 0)
            filled[name] = start + shape[axis]
            place = Part(axis, start, sum(x.shape[axis] for x in together))
        path = (*(("layers",) if in_layers else ()), *part.split("/"), *((kind,) if kind else ()))
        found.append(Stored(path, tuple(each), over, shape, axes, place))
    return tuple(found)


def _axes(parameter: _Parameter, count: int, inputs_first: bool) -> tuple[tuple[int, ...], ...]:
    if not parameter.kind:
        return tuple((a,) for a in range(count))
    into, out = tuple(range(parameter.inputs)), tuple(range(parameter.inputs, count))
    if not into:
        return (out,)
    return (into, out) if inputs_first else (out, into)


def _parameters(config: DecoderConfig) -> Iterator[_Parameter]:
    """Those that the config asks for, shapes without layers."""
    width, dim, hidden = config.width, config.head_dim, config.mlp_width
    heads, kv_heads = config.heads, config.kv_heads

    def table(part: str, rows: int) -> _Parameter:
        return _Parameter(part, "", (rows, width))

    def norm(part: str, *shape: int) -> Iterator[_Parameter]:
        yield _Parameter(part, "scale", shape)
        if config.norm == "layer":
            yield _Parameter(part, "bias", shape)

    def linear(part: str, into: tuple[int, ...], out: tuple[int, ...], bias: bool, **shared: int):
        yield _Parameter(part, "kernel", into + out, len(into), shared)
        if bias:
            less = {name: axis - len(into) for name, axis in shared.items()}
            yield _Parameter(part, "bias", out, 0, less)

    yield table("embed", config.vocab_size)
    if config.learned_positions:
        yield table("positions", config.max_positions)
    yield from norm("norm", width)
    if config.num_scores:
        yield table("score", config.num_scores)
    elif not config.tied:
        yield table("head", config.vocab_size)
    for part in ("attention", "mlp"):
        if config.norms != "after":
            yield from norm(f"{part}_norm", width)
        if config.norms != "before":
            yield from norm(f"{part}_out_norm", width)
    for part, count in (("query", heads), ("key", kv_heads), ("value", kv_heads)):
        out, shared = (count, dim), {"heads": 1, "head_dim": 2}
        yield from linear(f"attention/{part}", (width,), out, config.qkv_bias, **shared)
    yield from linear("attention/out", (heads, dim), (width,), config.out_bias)
    if config.qk_norm != "none":
        yield from norm("attention/query_norm", *((heads,) * (config.qk_norm == "all")), dim)
        yield from norm("attention/key_norm", *((kv_heads,) * (config.qk_norm == "all")), dim)
    if config.experts:
        count = config.experts.count
        yield from linear("mlp/router", (width,), (count,), False)
        for part, shape in (
            ("gate", (width, hidden)),
            ("up", (width, hidden)),
            ("down", (hidden, width)),
        ):
            yield _Parameter(f"mlp/{part}", "kernel", (count, *shape), 1)
        return
    for part in ("gate", "up") if config.gated else ("up",):
        yield from linear(f"mlp/{part}", (width,), (hidden,), config.mlp_bias, mlp=1)
    yield from linear("mlp/down", (hidden,), (width,), config.mlp_bias)
