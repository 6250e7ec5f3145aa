"""The families of the Hugging Face layout, and what their config.json says in our words.

A family is a value: adding one that this decoder can compute is one entry of `FAMILIES`, and what
a config.json asks for that the decoder does not compute is refused by name, never passed over.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from alignax.core.errors import BadInput
from alignax.models.config import DecoderConfig, LinearScaling, Llama3Scaling

ROPE_TYPES = ("default", "linear", "llama3")
_COMPARE = "Compare config.json with the one that the weights were published with."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """What sets one `model_type` apart from the next.

    Fields:
        name: of transformers' classes, such as Llama in LlamaForCausalLM.
        defaults: what a key that config.json leaves out means. An explicit null is a value.
        biases: whether the layout has biases at all.
        window: whether the layout has a sliding window at all.
    """

    name: str
    defaults: Mapping[str, Any]
    biases: bool
    window: bool


_DEFAULTS = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "initializer_range": 0.02,
}

FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        name="Llama",
        defaults=_DEFAULTS | {"max_position_embeddings": 2048},
        biases=True,
        window=False,
    ),
    "mistral": Family(
        name="Mistral",
        defaults=_DEFAULTS
        | {"max_position_embeddings": 131_072, "num_key_value_heads": 8, "sliding_window": 4096},
        biases=False,
        window=True,
    ),
}


def from_hugging_face(config: Mapping[str, Any], where: str) -> DecoderConfig:
    """The decoder that a config.json describes, in old keys or in those of transformers 5.

    Args:
        config: the file's contents.
        where: its path, for errors.

    Raises:
        BadInput: the family is unknown, a key is missing or mistyped, or the config asks for
            something that the decoder does not compute.
    """
    family = _family(config.get("model_type"), where)
    _refuse_unsupported(config, family, where)
    keys = _Keys({**family.defaults, **config}, where)
    heads, width = keys.integer("num_attention_heads"), keys.integer("hidden_size")
    kv_heads = keys.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise BadInput(
            "num_attention_heads to be a multiple of num_key_value_heads",
            f"{heads} and {kv_heads}",
            _COMPARE,
            where=where,
        )
    head_dim = keys.integer("head_dim", width // heads)
    if head_dim % 2 or ("head_dim" not in config and width % heads):
        raise BadInput(
            "an even head_dim, or a hidden_size that is a multiple of num_attention_heads",
            f"head_dim {config.get('head_dim')}, hidden_size {width}, {heads} heads",
            _COMPARE,
            where=where,
        )
    max_positions = keys.integer("max_position_embeddings")
    theta, scaling = _rope(config, keys, max_positions, where)
    return DecoderConfig(
        vocab_size=keys.integer("vocab_size"),
        width=width,
        layers=keys.integer("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mlp_width=keys.integer("intermediate_size"),
        max_positions=max_positions,
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=keys.number("rms_norm_eps"),
        tied=bool(keys.values["tie_word_embeddings"]),
        attention_bias=bool(keys.values["attention_bias"]),
        mlp_bias=bool(keys.values["mlp_bias"]),
        window=keys.integer("sliding_window", 0) or None if family.window else None,
        init_scale=keys.number("initializer_range"),
        num_scores=_num_labels(keys),
    )


def to_hugging_face(
    config: DecoderConfig,
    family: str,
    source_config: Mapping[str, Any] | None = None,
    labels: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The config.json of a decoder, without its dtype.

    A decoder with a `score` head is a sequence classifier there, whose labels are its outputs.

    Rotary settings are written in the old keys, `rope_theta` and `rope_scaling`: transformers 5
    reads them, and transformers 4 would pass over `rope_parameters` without a word.

    Args:
        family: one of `FAMILIES`.
        source_config: the config.json that the weights came with. What the decoder does not know
            of (token ids, the vendor's notes) is kept.
        labels: names of the head's outputs; LABEL_0 and so on where there are none.

    Raises:
        BadInput: the family's layout has no place for what the decoder does, or the labels are
            not those of its outputs.
    """
    layout = _family(family, "family")
    for name, wanted, has in (
        ("attention_bias", config.attention_bias, layout.biases),
        ("mlp_bias", config.mlp_bias, layout.biases),
        ("window", config.window is not None, layout.window),
    ):
        if wanted and not has:
            raise BadInput(
                f"a decoder that the {family} layout can describe",
                f"{name} = {getattr(config, name)}",
                "Save it as mistral for a window, or as llama for biases.",
                where=f"config.{name}",
            )
    replaced = ("rope_parameters", "dtype", "torch_dtype", "layer_types", "problem_type",
                "id2label", "label2id", "num_labels")  # fmt: skip
    kept = {k: v for k, v in (source_config or {}).items() if k not in replaced}
    # Without these transformers supplies its own ids, which may mean anything in this vocabulary.
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    task = "SequenceClassification" if config.num_scores else "CausalLM"
    return (
        ids
        | kept
        | _classifier(config, labels, kept)
        | {
            "architectures": [f"{layout.name}For{task}"],
            "model_type": family,
            "vocab_size": config.vocab_size,
            "hidden_size": config.width,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.kv_heads,
            "head_dim": config.head_dim,
            "intermediate_size": config.mlp_width,
            "hidden_act": "silu",
            "max_position_embeddings": config.max_positions,
            "rope_theta": config.rope_theta,
            "rope_scaling": _rope_scaling(config),
            "rms_norm_eps": config.norm_eps,
            "tie_word_embeddings": config.tied,
            "initializer_range": config.init_scale,
        }
        | (
            {"attention_bias": config.attention_bias, "mlp_bias": config.mlp_bias}
            if layout.biases
            else {}
        )
        | ({"sliding_window": config.window} if layout.window else {})
    )


def _family(name: Any, where: str) -> Family:
    if name in FAMILIES:
        return FAMILIES[name]
    nearest = difflib.get_close_matches(str(name), FAMILIES, n=1)
    hint = f"Did you mean {nearest[0]}? " if nearest else ""
    raise BadInput(
        f"a model_type that alignax computes: {', '.join(FAMILIES)}",
        "none" if name is None else repr(name),
        f"{hint}Choose a model of one of these families.",
        where=where,
    )


def _refuse_unsupported(config: Mapping[str, Any], family: Family, where: str) -> None:
    # Each key with the values under which it changes nothing.
    neutral: dict[str, tuple[Any, ...]] = {
        "hidden_act": ("silu", "swish"),
        "pretraining_tp": (1, None),
        "partial_rotary_factor": (1, None),
        "rope_interleaved": (False, None),
        "quantization_config": (None,),
    }
    if not family.biases:
        neutral |= {"attention_bias": (False, None), "mlp_bias": (False, None)}
    for key, allowed in neutral.items():
        if key in config and config[key] not in allowed:
            raise BadInput(
                f"{key} to be {allowed[0]!r}" if allowed[0] is not None else f"no {key}",
                repr(config[key]),
                "alignax does not compute this; choose weights that do not ask for it.",
                where=where,
            )
    kinds = set(config.get("layer_types") or ())
    if len(kinds) > 1 or (kinds and kinds != {"full_attention"} and not family.window):
        raise BadInput(
            "layer_types to be the same in every layer",
            ", ".join(sorted(kinds)),
            "alignax does not yet mix kinds of attention; choose other weights.",
            where=where,
        )


class _Keys(NamedTuple):
    """A config's values, and its path for errors."""

    values: Mapping[str, Any]
    where: str

    def integer(self, key: str, absent: int | None = None) -> int:
        """A whole number; `absent` where the key is missing or null."""
        value = self.values.get(key)
        if value is None and absent is not None:
            return absent
        if type(value) is not int or value < 0 or (value == 0 and absent != 0):
            raise self._wrong(key, "a positive whole number", value)
        return value

    def number(self, key: str) -> float:
        """A positive number."""
        value = self.values.get(key)
        if isinstance(value, int | float) and value is not True and 0 < value < math.inf:
            return float(value)
        raise self._wrong(key, "a positive number", value)

    def _wrong(self, key: str, expected: str, value: Any) -> BadInput:
        got = repr(value) if key in self.values else "no such key"
        return BadInput(f"{key}, {expected}", got, _COMPARE, where=self.where)


def _num_labels(keys: _Keys) -> int:
    """Outputs of the head, where config.json is a sequence classifier's; 0 where it is not."""
    classes = keys.values.get("architectures") or ()
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


def _classifier(
    config: DecoderConfig, labels: tuple[str, ...], source: Mapping[str, Any]
) -> dict[str, Any]:
    """The keys of a sequence classifier. transformers counts the outputs by `id2label`."""
    if labels and not len(labels) == len(set(labels)) == config.num_scores:
        raise BadInput(
            f"{config.num_scores} labels, all different: one for each output of the score head",
            f"{len(labels)}: {', '.join(labels)}",
            "Name every output once, or none of them.",
            where="labels",
        )
    if not config.num_scores:
        return {}
    names = labels or tuple(f"LABEL_{i}" for i in range(config.num_scores))
    # It reads the last token that is not this one, and in batches must be told which that is.
    pad, eos = source.get("pad_token_id"), source.get("eos_token_id")
    if pad is None:
        pad = next(iter(eos), None) if isinstance(eos, list) else eos
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": "regression",
        "pad_token_id": pad,
    }


def _rope(config: Mapping[str, Any], keys: _Keys, max_positions: int, where: str):
    """Base and scaling, from `rope_parameters`, or else from `rope_theta` and `rope_scaling`."""
    rope = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    rope.setdefault("rope_theta", keys.values["rope_theta"])
    rope.setdefault("original_max_position_embeddings", max_positions)
    rope_type = rope.get("rope_type") or rope.get("type") or "default"
    nested = [k for k, v in rope.items() if isinstance(v, Mapping)]
    if rope_type not in ROPE_TYPES or nested or rope.get("partial_rotary_factor", 1) != 1:
        got = f"{nested[0]!r} of its own" if nested else repr(rope_type)
        if rope.get("partial_rotary_factor", 1) != 1:
            got = f"partial_rotary_factor {rope['partial_rotary_factor']}"
        raise BadInput(
            f"rotary positions of one type for all layers: {', '.join(ROPE_TYPES)}",
            got,
            "Other ways to stretch the window are not computed; choose other weights.",
            where=where,
        )
    keys = _Keys(rope, f"{where}, rotary settings")
    theta = keys.number("rope_theta")
    if rope_type == "linear":
        return theta, LinearScaling(factor=keys.number("factor"))
    if rope_type == "llama3":
        return theta, Llama3Scaling(
            factor=keys.number("factor"),
            low_freq_factor=keys.number("low_freq_factor"),
            high_freq_factor=keys.number("high_freq_factor"),
            original_positions=keys.integer("original_max_position_embeddings"),
        )
    return theta, None


def _rope_scaling(config: DecoderConfig) -> dict[str, Any] | None:
    match config.rope_scaling:
        case None:
            return None
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
