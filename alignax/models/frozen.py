"""The base of an adapter: read once, and shared by policy, reference and sampler."""

import dataclasses
import functools
from collections.abc import Callable

import jax
from jaxtyping import PRNGKeyArray

from alignax.core.errors import BadInput
from alignax.core.types import Params
from alignax.models import peft, quantised
from alignax.models.lora import Adapter

INIT = 5  # what a key is for: the first matrices of an adapter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frozen:
    """A base that is not trained, and how its adapter begins.

    Fields:
        adapter: its functions.
        read: reads the base, in float32 or bfloat16.
        family: of the base's layout.
        shardings: of the adapter's arrays.
    """

    adapter: Adapter
    read: Callable[[], Params]
    family: str
    shardings: Params

    @functools.cached_property
    def base(self) -> Params:
        """The base's parameters: the same arrays whoever asks."""
        return quantised.hold(self.read(), self.adapter, self.adapter.settings.base)

    def begin(self, seed: int = 0) -> Params:
        """A new copy of the adapter that training begins with.

        Args:
            seed: draws the first matrices, where no adapter is given.

        Raises:
            BadInput: the one that is given has another base.
        """
        settings = self.adapter.settings
        if settings.adapter_name_or_path is None:
            key = jax.random.fold_in(jax.random.key(seed), INIT)
            make = jax.jit(self.adapter.init, out_shardings=self.shardings)
            return make(key, self.base)
        found = peft.load(settings.adapter_name_or_path, self.adapter, family=self.family)
        place = lambda x, where: jax.make_array_from_callback(x.shape, where, x.__getitem__)  # noqa: E731
        return jax.tree.map(place, found, self.shardings)

    def check(self) -> None:
        """Refuses an adapter that cannot be, before anything is allocated for it.

        Raises:
            BadInput: a target that is no layer, an adapter to begin with of other settings, or a
                family whose adapters PEFT's format has no place for.
        """
        settings, decoder = self.adapter.settings, self.adapter.decoder
        _spoken(self.adapter)
        if settings.export == "adapter":
            peft.check(decoder.config, self.family)
        if settings.adapter_name_or_path is None:
            return
        given = peft.read_settings(settings.adapter_name_or_path)
        theirs = dataclasses.replace(self.adapter, settings=given)
        both = (
            ("rank", settings.rank, given.rank),
            ("alpha", settings.alpha, given.alpha),
            ("rslora", settings.rslora, given.rslora),
            ("dora", settings.dora, given.dora),
            ("targets", _spoken(self.adapter), _spoken(theirs)),
        )
        different = [(name, mine, other) for name, mine, other in both if mine != other]
        if different:
            name, mine, other = different[0]
            all_of_them = ", ".join(f"{name}={other!r}" for name, _, other in different)
            flags = " ".join(_flag(name, other) for name, _, other in different)
            raise BadInput(
                f"{other!r}, as {settings.adapter_name_or_path} has it",
                repr(mine),
                f"Set {all_of_them} in the config's LoRA(...), or give {flags}; or begin without "
                "that adapter.",
                where=f"adapter.{name}",
            )

    @functools.cached_property
    def reference(self) -> Params:
        """The policy that training begins with: the base, unless an adapter is given."""
        given = self.adapter.settings.adapter_name_or_path
        return self.base if given is None else self.join(self.begin())

    def join(self, params: Params, key: PRNGKeyArray | None = None) -> Params:
        """All parameters of the policy; `key` as in `Adapter.attach`."""
        return self.adapter.attach(self.base, params, key)


def _flag(name: str, value: bool | int | float | tuple[str, ...]) -> str:
    """How the command line sets this."""
    if isinstance(value, bool):
        return f"--adapter.{name}" if value else f"--adapter.no-{name}"
    return f"--adapter.{name} {' '.join(value) if isinstance(value, tuple) else value}"


def _spoken(adapter: Adapter) -> tuple[str, ...]:
    return tuple("/".join(path) for path in adapter.paths)
