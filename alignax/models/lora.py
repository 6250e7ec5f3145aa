"""Low-rank adapters: a few small matrices are trained beside a base that stays as it is.

LoRA (arXiv:2106.09685) adds scale * A B to a matrix W, computed as (x A) B and never as a matrix
of W's size. rsLoRA (arXiv:2312.03732) divides alpha by the root of the rank, so that the update
keeps its size as the rank grows. DoRA (arXiv:2402.09353) gives every output of W + scale * A B a
magnitude that is learnt apart from its direction.

The base is one tree of arrays and stays one: what the policy computes with is the base with an
`Adapted` kernel where a layer has an adapter, and the reference is the base itself.
"""

import dataclasses
import difflib
import functools
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from alignax.core.errors import BadInput
from alignax.core.types import Params
from alignax.models.kernels import Kernel, Product, at, put, times, whole
from alignax.models.transformer import Decoder

ALL = "all-linear"
_TWO_AXES = ("heads", "kv_heads")  # inputs that are two axes of a kernel: heads by head_dim


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRA:
    """An adapter, trained in place of the model's own weights.

    Fields:
        rank: of the update of each matrix, 1 or above. Typical: 8 to 64.
        alpha: the update is alpha / rank times the product of its two matrices.
        dropout: share of the inputs to the first of them that is left out at random while
            training, in [0, 1). Drawn from the seed, the update and the place in the batch, so
            that micro-batches and meshes other than the run's first ones draw others.
        targets: layers that have an adapter: by name, such as `query` or `mlp/down`, by the names
            of the model's own format, such as `q_proj`, or `all-linear`, all of a block.
        rslora: divide alpha by the root of the rank instead.
        dora: learn a magnitude for every output too.
        base: how the frozen weights are held. `bfloat16` changes nothing where they were
            published so. `int8` and `nf4` hold the matrices of the blocks in 8 and in 4 bits and
            all else in bfloat16, and need the package qwix; what is held is the reference, and
            what the adapter is merged into.
        adapter_name_or_path: a directory in PEFT's format to begin with. The reference is then
            the base with that adapter as it came.
        export: what a run leaves behind: the `merged` model, or the `adapter` in PEFT's format.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = (ALL,)
    rslora: bool = False
    dora: bool = False
    base: Literal["float32", "bfloat16", "int8", "nf4"] = "float32"
    adapter_name_or_path: str | None = None
    export: Literal["merged", "adapter"] = "merged"

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def check(self, where: str = "adapter") -> None:
        """Refuses numbers that no adapter can have.

        Raises:
            BadInput: naming the setting.
        """
        for name, right, expected in (
            ("rank", self.rank >= 1, "a whole number from 1"),
            ("alpha", 0 < self.alpha < math.inf, "a positive number"),
            ("dropout", 0 <= self.dropout < 1, "a number in [0, 1)"),
            ("targets", len(self.targets) > 0, f"at least one layer's name, or {ALL}"),
        ):
            if not right:
                got = repr(getattr(self, name))
                raise BadInput(expected, got, "Change the setting.", where=f"{where}.{name}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapted(Kernel):
    """A frozen matrix and its low-rank update; all arrays have an axis of layers where stacked.

    Fields:
        kernel: W, [*inputs, *outputs]: an array or a `Kernel`.
        a, b: [*inputs, rank] and [rank, *outputs], float32.
        magnitude: of each output, [*outputs]; None for LoRA without it.
        key: of the draws of dropout, one a layer; None where nothing is left out.
        contract: axes that are inputs.
        scale: of the update.
        dropout: share of the inputs that is left out where there is a key.
    """

    kernel: Any
    a: Any
    b: Any
    magnitude: Any
    key: Any
    contract: int = dataclasses.field(metadata={"static": True})
    scale: float = dataclasses.field(metadata={"static": True})
    dropout: float = dataclasses.field(metadata={"static": True})

    def times(self, x: Float[Array, "..."], axes: int, product: Product) -> Float[Array, "..."]:
        """m / |W + scale A B| (x W + scale (dropout(x) A) B); the fraction only for DoRA.

        The norm is a constant to the gradient, as DoRA's authors have it (section 4.3).
        """
        narrow = product(axes, self._left_out(x), self.a)
        out = times(x, self.kernel, axes, product) + self.scale * product(1, narrow, self.b)
        if self.magnitude is None:
            return out
        ratio = self.magnitude / jax.lax.stop_gradient(self._norm(self.kernel, self.a, self.b))
        return out * jnp.broadcast_to(ratio.astype(out.dtype), out.shape)

    def whole(self) -> Float[Array, "..."]:
        """W + scale A B, times m / |W + scale A B| for DoRA: the merged matrix."""
        return self._over_layers(self._merged)(whole(self.kernel), self.a, self.b, self.magnitude)

    def without(self, merged: Float[Array, "..."], norm: Any) -> Float[Array, "..."]:
        """W again, from the merged matrix; DoRA needs the norm that it was divided by."""
        return self._over_layers(self._unmerged)(merged, self.a, self.b, self.magnitude, norm)

    def norm(self) -> Float[Array, "..."]:
        """|W + scale A B| of each output: the square root of the sum of squares over the inputs."""
        return self._over_layers(self._norm)(whole(self.kernel), self.a, self.b)

    def _over_layers(self, function: Any) -> Any:
        return jax.vmap(function) if self.a.ndim > self.contract + 1 else function

    def _left_out(self, x: Array) -> Array:
        if self.key is None:
            return x
        kept = jax.random.bernoulli(self.key, 1.0 - self.dropout, x.shape)
        return jnp.where(kept, x / (1.0 - self.dropout), 0.0).astype(x.dtype)

    def _update(self, a: Array, b: Array) -> Array:
        return self.scale * jnp.tensordot(a, b, 1, precision="highest")

    def _merged(self, kernel: Array, a: Array, b: Array, magnitude: Any) -> Array:
        kernel = kernel.astype(jnp.float32)
        merged = kernel + self._update(a, b)
        if magnitude is None:
            return merged
        return merged * jnp.broadcast_to(magnitude / self._norm(kernel, a, b), merged.shape)

    def _unmerged(self, merged: Array, a: Array, b: Array, magnitude: Any, norm: Any) -> Array:
        merged = merged.astype(jnp.float32)
        if magnitude is not None:
            merged = merged * jnp.broadcast_to(norm / magnitude, merged.shape)
        return merged - self._update(a, b)

    def _norm(self, kernel: Any, a: Array, b: Array) -> Array:
        """From three small products, without a matrix of W's size beside W.

        |W + s A B|^2 = |W|^2 + 2 s (W'A) . B + s^2 (A'A B) . B, for each output.
        """
        kernel = whole(kernel).astype(jnp.float32)
        inputs = tuple(range(self.contract))
        dot = functools.partial(jnp.tensordot, precision="highest")
        crossed = dot(a, kernel, (inputs, inputs)) + 0.5 * self.scale * dot(
            dot(a, a, (inputs, inputs)), b, 1
        )
        squares = jnp.sum(kernel * kernel, inputs) + 2.0 * self.scale * jnp.sum(crossed * b, 0)
        return jnp.sqrt(jnp.maximum(squares, jnp.finfo(jnp.float32).tiny))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter of a decoder as pure functions; its parameters are a tree of their own.

    The tree has the path of every adapted layer, with `a`, `b` and for DoRA `magnitude` in the
    kernel's place; and `score`, trained whole, where the decoder is a reward model.

    Fields:
        decoder: the base.
        settings: of the adapter.
        aliases: what the model's own format calls a layer, such as `self_attn.q_proj` for
            `attention/query`.
    """

    decoder: Decoder
    settings: LoRA
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """Of the layers that have an adapter, within a block.

        Raises:
            BadInput: a target that is no layer, with those that there are.
        """
        known = {"/".join(path): path for path in self.linears}
        chosen = set()
        for target in self.settings.targets:
            found = [name for name in known if target in self._names(name)]
            if target == ALL:
                found = list(known)
            if not found:
                spoken = [f"{x} ({self.aliases[x]})" if x in self.aliases else x for x in known]
                every = {alias for name in known for alias in self._names(name)}
                near = difflib.get_close_matches(target, sorted(every), n=1)
                raise BadInput(
                    f"layers of the model: {', '.join(spoken)}; or {ALL}",
                    repr(target),
                    f"Did you mean {near[0]}?" if near else "Name some of these.",
                    where="adapter.targets",
                )
            chosen |= set(found)
        return tuple(path for name, path in known.items() if name in chosen)

    def _names(self, name: str) -> set[str]:
        alias = self.aliases.get(name, name)
        return {name, name.split("/")[-1], alias, alias.split(".")[-1]}

    @functools.cached_property
    def linears(self) -> dict[tuple[str, ...], int]:
        """Of every linear layer of a block, adapted or not: how many of its axes are inputs."""
        is_names = lambda x: isinstance(x, tuple)  # noqa: E731
        axes, found = self.decoder.axes()["layers"], {}
        for place, names in jax.tree_util.tree_leaves_with_path(axes, is_leaf=is_names):
            *path, last = (part.key for part in place)
            inputs = 2 if names[1] in _TWO_AXES else 1
            # Experts and their router stay as they are: a kernel there is not one matrix a layer.
            if last == "kernel" and len(names) > 1 + inputs and "experts" not in names:
                found[tuple(path)] = inputs
        return found

    def contract(self, path: tuple[str, ...]) -> int:
        """How many axes of a layer's kernel are inputs."""
        return self.linears[path]

    def abstract(self) -> Params:
        """The adapter's shapes and dtypes, nothing allocated."""
        base = self.decoder.abstract()
        rank, tree = self.settings.rank, {}
        shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)  # noqa: E731
        for path in self.paths:
            layers, *sizes = at(base["layers"], path)["kernel"].shape
            inputs, outputs = sizes[: self.contract(path)], sizes[self.contract(path) :]
            made = {"a": shape(layers, *inputs, rank), "b": shape(layers, rank, *outputs)}
            if self.settings.dora:
                made["magnitude"] = shape(layers, *outputs)
            put(tree, ("layers", *path), made)
        return tree | ({"score": base["score"]} if self.decoder.config.num_scores else {})

    def axes(self) -> Params:
        """The logical axes of every array, in the structure of `abstract()`."""
        tree: dict[str, Any] = {}
        base = self.decoder.axes()
        for path in self.paths:
            names, contract = at(base["layers"], path)["kernel"][1:], self.contract(path)
            made = {
                "a": ("layers", *names[:contract], "rank"),
                "b": ("layers", "rank", *names[contract:]),
            }
            if self.settings.dora:
                made["magnitude"] = ("layers", *names[contract:])
            put(tree, ("layers", *path), made)
        scored = self.decoder.config.num_scores
        return tree | ({"score": base["score"]} if scored else {})

    def init(self, key: PRNGKeyArray, base: Params) -> Params:
        """An adapter that changes nothing yet: B is 0, and magnitudes are the base's own norms.

        A is uniform within 1 / sqrt(inputs) of 0, as PEFT draws it.

        Args:
            base: the decoder's parameters.
        """
        tree: dict[str, Any] = {}
        for number, path in enumerate(self.paths):
            place = at(self.abstract()["layers"], path)
            shape = place["a"].shape
            bound = 1.0 / math.sqrt(math.prod(shape[1:-1]))
            drawn = jax.random.uniform(jax.random.fold_in(key, number), shape, minval=-bound,
                                       maxval=bound)  # fmt: skip
            made = {"a": drawn, "b": jnp.zeros(place["b"].shape)}
            if self.settings.dora:
                made["magnitude"] = self._adapted(at(base["layers"], path), made, path).norm()
            put(tree, ("layers", *path), made)
        if self.decoder.config.num_scores:
            # A copy: what is trained is given away at every update, and the base is not.
            tree["score"] = jnp.array(base["score"], jnp.float32, copy=True)
        return tree

    def attach(self, base: Params, adapter: Params, key: PRNGKeyArray | None = None) -> Params:
        """The parameters that the decoder computes with; the base's arrays are not copied.

        Args:
            key: of the draws of dropout. Nothing is left out where None.
        """
        params = jax.tree.map(lambda x: x, base, is_leaf=lambda x: isinstance(x, Kernel))
        for number, path in enumerate(self.paths):
            layer = at(params["layers"], path)
            keys = None
            if key is not None and self.settings.dropout:
                keys = jax.random.fold_in(key, number)
                keys = jax.random.split(keys, self.decoder.config.layers)
            layer["kernel"] = self._adapted(layer, at(adapter["layers"], path), path, keys)
        return params | ({"score": adapter["score"]} if "score" in adapter else {})

    def _adapted(self, layer: Params, made: Params, path: tuple[str, ...], key: Any = None):
        return Adapted(
            kernel=layer["kernel"],
            a=made["a"],
            b=made["b"],
            magnitude=made.get("magnitude"),
            key=key,
            contract=self.contract(path),
            scale=self.settings.scale,
            dropout=self.settings.dropout,
        )

    def norms(self, base: Params, adapter: Params) -> Params:
        """What DoRA divides by, at the path of every adapted layer; `unmerge` needs it."""
        tree: dict[str, Any] = {}
        for path in self.paths:
            kernel = self._adapted(at(base["layers"], path), at(adapter["layers"], path), path)
            put(tree, path, kernel.norm())
        return tree

    def unmerge(self, merged: Params, adapter: Params, norms: Params | None = None) -> Params:
        """The base, to rounding, from parameters that the adapter was merged into.

        Of a reward model the score head stays that of the adapter.

        Args:
            norms: of `norms`, from before; needed for DoRA, which keeps directions only.
        """
        params = jax.tree.map(lambda x: x, merged)
        for path in self.paths:
            layer = at(params["layers"], path)
            kernel = self._adapted(layer, at(adapter["layers"], path), path)
            norm = None if norms is None else at(norms, path)
            layer["kernel"] = kernel.without(layer["kernel"], norm)
        return params
