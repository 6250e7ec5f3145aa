"""Matrices that are not held as one array, in the place of one in a tree of parameters.

A layer multiplies by whatever stands where its kernel is named: an array, or a `Kernel`, a node of
the tree with arrays of its own. So the decoder's code is one, whatever its matrices are made of.
"""

import abc
import functools
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float

from alignax.core.types import Params

# (axes to contract, x, array) -> x times the array over the last axes of x, in the dtype of x
Product = Callable[[int, Array, Array], Array]


class Kernel(abc.ABC):
    """A matrix as a node of the tree; its arrays may have an axis of layers before all others."""

    @abc.abstractmethod
    def times(self, x: Float[Array, "..."], axes: int, product: Product) -> Float[Array, "..."]:
        """x times the matrix of one layer, over the last `axes` axes of x."""

    @abc.abstractmethod
    def whole(self) -> Float[Array, "..."]:
        """The matrix as one array, float32; with the axis of layers where it is stacked."""


def times(x: Array, kernel: Any, axes: int, product: Product) -> Array:
    """x times an array or a `Kernel`."""
    return (
        kernel.times(x, axes, product) if isinstance(kernel, Kernel) else product(axes, x, kernel)
    )


def whole(kernel: Any) -> Any:
    """An array as it is, or the one that a `Kernel` stands for."""
    return kernel.whole() if isinstance(kernel, Kernel) else kernel


def plain(params: Params) -> Params:
    """The parameters with an array for every `Kernel`; other leaves are not copied."""
    return jax.tree.map(whole, params, is_leaf=lambda x: isinstance(x, Kernel))


def at(tree: Params, path: tuple[str, ...]) -> Any:
    """What lies at a path of nested dictionaries."""
    return functools.reduce(lambda inside, name: inside[name], path, tree)


def put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Lays a value at a path, in dictionaries made where there are none."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value
