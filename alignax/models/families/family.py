"""What a family is, and the reading of a config.json's keys."""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from alignax.core.errors import BadInput
from alignax.models.config import Activation, DecoderConfig, LayerKind
from alignax.models.rotary import LinearScaling, Llama3Scaling, Rope, YarnScaling
from alignax.models.stored import Names

ROPE_TYPES = ("default", "linear", "llama3", "yarn")
FULL, SLIDING = "full_attention", "sliding_attention"  # names of kinds of layers
_COMPARE = "Compare config.json with the one that the weights were published with."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """What sets one `model_type` apart from the next.

    Fields:
        name: of transformers' classes, such as Llama in LlamaForCausalLM.
        read: a config.json's keys as a decoder's config.
        write: the keys of a decoder's config, but for those that all families share.
        names: of the tensors.
        defaults: what a key that config.json leaves out means. An explicit null is a value.
        neutral: keys that the decoder does not compute, with the values that change nothing.
        causal: the rest of the language model's class name.
        classifier: the whole of the sequence classifier's; `name`ForSequenceClassification if "".
    """

    name: str
    read: Callable[["Keys"], DecoderConfig]
    write: Callable[[DecoderConfig], dict[str, Any]]
    names: Names
    defaults: Mapping[str, Any]
    neutral: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    causal: str = "ForCausalLM"
    classifier: str = ""

    def architecture(self, num_scores: int) -> str:
        """The class that transformers loads the model as."""
        if num_scores:
            return self.classifier or f"{self.name}ForSequenceClassification"
        return self.name + self.causal


class Keys(NamedTuple):
    """A config's values, defaults filled in, and its path for errors."""

    values: Mapping[str, Any]
    where: str

    def integer(self, key: str, absent: int | None = None) -> int:
        """A positive whole number; `absent` where the key is missing or null."""
        value = self.values.get(key)
        if value is None and absent is not None:
            return absent
        if type(value) is not int or value < 0 or (value == 0 and absent != 0):
            raise self.wrong(key, "a positive whole number", value)
        if value >= 2**31:
            raise self.wrong(key, "a number of 32 bits", value)
        return value

    def number(self, key: str) -> float:
        """A positive number."""
        value = self.values.get(key)
        if isinstance(value, int | float) and value is not True and 0 < value <= sys.float_info.max:
            return float(value)
        raise self.wrong(key, "a positive number", value)

    def cap(self, key: str) -> float | None:
        """A positive number, or None where the key is missing or null."""
        return None if self.values.get(key) is None else self.number(key)

    def flag(self, key: str) -> bool:
        """True or false; false where the key is missing or null."""
        value = self.values.get(key)
        if value is None or isinstance(value, bool):
            return bool(value)
        raise self.wrong(key, "true or false", value)

    def activation(self, key: str) -> Activation:
        """Our name of an activation."""
        names: dict[Any, Activation] = {
            "silu": "silu",
            "swish": "silu",
            "gelu": "gelu",
            "relu": "relu",
            **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast"), "gelu_tanh"),
        }
        value = self.values.get(key)
        if isinstance(value, str) and value in names:
            return names[value]
        raise self.wrong(key, f"one of {', '.join(names)}", value)

    def mapping(self, key: str) -> Mapping[str, Any]:
        """An object; an empty one where the key is missing or null."""
        value = self.values.get(key) or {}
        if isinstance(value, Mapping):
            return value
        raise self.wrong(key, "an object", value)

    def wrong(self, key: str, expected: str, value: Any) -> BadInput:
        """An error about one key."""
        got = f"{value!r:.200}" if key in self.values else "no such key"
        return BadInput(f"{key}, {expected}", got, _COMPARE, where=self.where)


def plain(keys: Keys, **changes: Any) -> DecoderConfig:
    """The decoder that the keys which most families share describe, with some fields changed."""
    heads, width = keys.integer("num_attention_heads"), keys.integer("hidden_size")
    kv_heads = keys.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        expected = "num_attention_heads to be a multiple of num_key_value_heads"
        raise BadInput(expected, f"{heads} and {kv_heads}", _COMPARE, where=keys.where)
    head_dim = read_head_dim(keys, width, heads)
    fields = {
        "vocab_size": keys.integer("vocab_size"),
        "width": width,
        "layers": keys.integer("num_hidden_layers"),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "mlp_width": keys.integer("intermediate_size"),
        "max_positions": keys.integer("max_position_embeddings"),
        "norm_eps": keys.number("rms_norm_eps"),
        "tied": keys.flag("tie_word_embeddings"),
        "activation": keys.activation("hidden_act"),
        "init_scale": keys.number("initializer_range"),
        "num_scores": num_labels(keys),
    }
    if "kinds" not in changes:
        fields["kinds"] = (LayerKind(rope=read_rope(keys, head_dim)),)
    return DecoderConfig(**(fields | changes))


def read_head_dim(keys: Keys, width: int, heads: int, *, turns: bool = True) -> int:
    """The length of a head: told, or the width divided by the heads.

    Args:
        turns: whether heads have rotary positions, which turn one half against the other.
    """
    head_dim = keys.integer("head_dim", width // heads)
    if keys.values.get("head_dim") is None and width % heads:
        expected = "a hidden_size (n_embd) that is a multiple of the number of heads"
        raise BadInput(expected, f"hidden_size {width}, {heads} heads", _COMPARE, where=keys.where)
    if turns and head_dim % 2:
        expected = "heads of an even size, whose halves turn against each other"
        raise BadInput(expected, f"a size of {head_dim}", _COMPARE, where=keys.where)
    return head_dim


def plain_keys(config: DecoderConfig) -> dict[str, Any]:
    """What `plain` reads. Rotary settings are those of the layers that see everything."""
    kind = next((k for k in config.kinds if k.window is None and k.rope), config.kinds[0])
    activations = {"gelu_tanh": "gelu_pytorch_tanh"}
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_width,
        "hidden_act": activations.get(config.activation, config.activation),
        "max_position_embeddings": config.max_positions,
        "rope_theta": kind.rope.theta if kind.rope else 10_000.0,
        "rope_scaling": write_scaling(kind.rope),
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "initializer_range": config.init_scale,
    }


def short_head_dim(written: dict[str, Any]) -> dict[str, Any]:
    """The same keys; without `head_dim` where it is the width divided by the heads."""
    if written["head_dim"] * written["num_attention_heads"] != written["hidden_size"]:
        return written
    return {key: value for key, value in written.items() if key != "head_dim"}


def turning_share(rope: Rope | None, head_dim: int) -> float:
    """The share of a head that turns, such that int(head_dim * share) is that many entries."""
    dims = (rope and rope.dims) or head_dim
    share = dims / head_dim  # rounded: 88 times 60 / 88 is less than 60
    return share if int(head_dim * share) == dims else math.nextafter(share, 1.0)


def layer_types(keys: Keys, layers: int, default: Iterable[str]) -> list[str]:
    """The name of each layer's kind: as config.json lists them, or else the family's own."""
    types = keys.values.get("layer_types")
    if types is None:
        return list(default)
    known = isinstance(types, list) and all(kind in (FULL, SLIDING) for kind in types)
    if not known or len(types) != layers:
        expected = f"a list of {layers}, each {FULL} or {SLIDING}"
        raise keys.wrong("layer_types", expected, types)
    return types


def written_types(config: DecoderConfig) -> list[str]:
    """The name of each layer's kind."""
    kinds = [config.kind(i) for i in range(config.layers)]
    return [FULL if kind.window is None else SLIDING for kind in kinds]


def window_of(config: DecoderConfig) -> int | None:
    """The window of the layers that have one."""
    return next((kind.window for kind in config.kinds if kind.window), None)


def num_labels(keys: Keys) -> int:
    """Outputs of the head, where config.json is a sequence classifier's; 0 where it is not."""
    classes = keys.values.get("architectures") or ()
    if not isinstance(classes, list | tuple):
        raise keys.wrong("architectures", "a list", classes)
    if not any(str(name).endswith("ForSequenceClassification") for name in classes):
        return 0
    named = keys.values.get("id2label")
    if named is None:
        return keys.integer("num_labels", 2)  # transformers' own default, which it leaves out
    number = len(named) if isinstance(named, Mapping) else 0
    if not number or keys.values.get("num_labels", number) not in (number, None):
        got = f"{named!r} and num_labels {keys.values.get('num_labels')}"
        expected = "id2label, a name for each of num_labels outputs"
        raise BadInput(expected, got, _COMPARE, where=keys.where)
    return number


def read_rope(keys: Keys, head_dim: int) -> Rope:
    """From `rope_parameters`, or else from `rope_theta` and `rope_scaling`."""
    rope = dict(keys.mapping("rope_scaling") or keys.mapping("rope_parameters"))
    theta = keys.values.get("rope_theta")
    rope.setdefault("rope_theta", theta)
    rope.setdefault("partial_rotary_factor", keys.values.get("partial_rotary_factor"))
    rope_type = rope.get("rope_type") or rope.get("type") or "default"
    original = "original_max_position_embeddings"
    own, beside = rope.get(original), keys.values.get(original)
    scaled = rope_type in ("llama3", "yarn")
    if scaled and own is not None and beside not in (None, own):
        raise BadInput(
            f"one {original}",
            f"{beside!r:.200}, and {own!r:.200} among the rotary settings",
            "transformers 5 takes the former, earlier releases the latter. Leave the one that the "
            "weights were trained with, among the rotary settings.",
            where=keys.where,
        )
    if own is None:
        rope[original] = beside or keys.values.get("max_position_embeddings")
    partial = rope["partial_rotary_factor"] not in (None, 1)
    if partial and "partial_rotary_factor" not in keys.values:
        raise BadInput(
            "all of a head to turn, as this model_type has it",
            f"partial_rotary_factor {rope['partial_rotary_factor']}",
            _COMPARE,
            where=keys.where,
        )
    nested = [key for key, value in rope.items() if isinstance(value, Mapping)]
    if rope_type not in ROPE_TYPES or nested:
        raise BadInput(
            f"rotary positions of one type for all layers: {', '.join(ROPE_TYPES)}",
            f"{nested[0]!r} of its own" if nested else repr(rope_type),
            "Other ways to stretch the window are not computed; choose other weights.",
            where=keys.where,
        )
    rope_keys = Keys(rope, f"{keys.where}, rotary settings")
    dims = None
    if partial:
        dims = int(head_dim * min(rope_keys.number("partial_rotary_factor"), 2.0))
        if not 0 < dims <= head_dim or dims % 2:
            expected = f"an even number of the {head_dim} entries of a head"
            raise rope_keys.wrong("partial_rotary_factor", expected, rope["partial_rotary_factor"])
    dims = None if dims == head_dim else dims
    return Rope(
        theta=rope_keys.number("rope_theta"), scaling=_scaling(rope_type, rope_keys), dims=dims
    )


def _scaling(rope_type: str, keys: Keys) -> LinearScaling | Llama3Scaling | YarnScaling | None:
    match rope_type:
        case "linear":
            return LinearScaling(factor=keys.number("factor"))
        case "llama3":
            return Llama3Scaling(
                factor=keys.number("factor"),
                low_freq_factor=keys.number("low_freq_factor"),
                high_freq_factor=keys.number("high_freq_factor"),
                original_positions=keys.integer("original_max_position_embeddings"),
            )
        case "yarn":
            for key in ("mscale", "mscale_all_dim"):
                if keys.values.get(key):
                    raise keys.wrong(key, "which alignax does not compute, to be absent", key)
            if keys.values.get("truncate", True) is not True:
                raise keys.wrong("truncate", "true", keys.values["truncate"])
            factor = keys.number("factor")
            return YarnScaling(
                factor=factor,
                original_positions=keys.integer("original_max_position_embeddings"),
                attention_factor=keys.cap("attention_factor") or _usual(factor),
                beta_fast=keys.cap("beta_fast") or 32.0,
                beta_slow=keys.cap("beta_slow") or 1.0,
            )
    return None


def write_scaling(rope: Rope | None) -> dict[str, Any] | None:
    """`rope_scaling`, the older name, which transformers 4 and 5 both read."""
    match rope and rope.scaling:
        case LinearScaling(factor=factor):
            return {"rope_type": "linear", "factor": factor}
        case Llama3Scaling() as scaling:
            return {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_positions,
            }
        case YarnScaling() as scaling:
            written = {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_positions,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
            }
            if scaling.attention_factor != _usual(scaling.factor):
                written["attention_factor"] = scaling.attention_factor
            return written
    return None


def _usual(factor: float) -> float:
    """YaRN's own attention factor (arXiv:2309.00071, equation 22)."""
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
