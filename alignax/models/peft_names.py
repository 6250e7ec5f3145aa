"""What the layout of the `peft` package calls the matrices of an adapter.

It has one pair of matrices for each of the base's own, so an adapter of a family that keeps
several of our layers in one matrix has no place there.
"""

from collections import Counter
from collections.abc import Iterator

from alignax.core.errors import BadInput
from alignax.models.config import DecoderConfig
from alignax.models.families import places
from alignax.models.lora import Adapter
from alignax.models.stored import Stored

PREFIX = "base_model.model."
TENSORS = {"a": "lora_A.weight", "b": "lora_B.weight", "magnitude": "lora_magnitude_vector"}


def module_names(config: DecoderConfig, family: str) -> dict[str, str]:
    """What the family's layout calls each linear layer of a block, by our name for it.

    `attention/query` is `self_attn.q_proj` in Llama's. Several of ours may have one name, where
    the layout fuses them.
    """
    return {path: name for path, name, _ in _modules(config, family)}


def check(config: DecoderConfig, family: str) -> None:
    """Refuses a family of which an adapter cannot be written in this layout.

    Raises:
        BadInput: it fuses layers, or stores them turned round.
    """
    found = list(_modules(config, family))
    count = Counter(name for _, name, _ in found)
    for path, name, place in found:
        axes = tuple(range(len(place.shape)))
        turned = not any(place.axes == (axes[i:], axes[:i]) for i in axes[1:])
        if count[name] > 1 or turned:
            raise BadInput(
                "a family with a matrix of its own for every linear layer, [outputs, inputs]",
                f"{family}, where {path} is part of {name}" if count[name] > 1
                else f"{family}, where {name} is stored otherwise",
                'Export the merged model: export="merged".',
                where="adapter.export",
            )  # fmt: skip


def check_read(adapter: Adapter, family: str, where: str) -> None:
    """Refuses an adapter of matrices that the family's layout fuses and alignax holds apart.

    Args:
        where: of the adapter, for errors.

    Raises:
        BadInput: naming the first of them.
    """
    modules = module_names(adapter.decoder.config, family)
    count = Counter(modules.values())
    for name in (modules["/".join(path)] for path in adapter.paths):
        if count[name] > 1:
            raise BadInput(
                "an adapter of matrices that are one projection each",
                f"{name}, in which {family} fuses {count[name]}",
                "alignax does not read adapters of fused projections; merge it with PEFT, and "
                "begin from the merged model.",
                where=where,
            )


def _modules(config: DecoderConfig, family: str) -> Iterator[tuple[str, str, Stored]]:
    for place in places(config, family):
        if place.path[0] == "layers" and place.path[-1] == "kernel":
            module = place.names[0].removesuffix(".weight").split(".0.", 1)[-1]
            yield "/".join(place.path[1:-1]), module, place


def tensors_of(adapter: Adapter, family: str) -> Iterator[tuple[str, tuple[str, ...], str, int]]:
    """Each tensor's name; and the layer's path, the array and the number of the block it is of."""
    config = adapter.decoder.config
    modules = {place.path[1:-1]: place.names for _, _, place in _modules(config, family)}
    kinds = [kind for kind in TENSORS if kind != "magnitude" or adapter.settings.dora]
    for path in adapter.paths:
        for layer, name in enumerate(modules[path]):
            module = PREFIX + name.removesuffix(".weight")
            for kind in kinds:
                yield f"{module}.{TENSORS[kind]}", path, kind, layer
