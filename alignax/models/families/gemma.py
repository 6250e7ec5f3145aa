"""Gemma 2 and 3: norms about both parts, windows by layer, embeddings scaled, soft caps or not."""

import logging
from typing import Any

from alignax.models.config import DecoderConfig, LayerKind
from alignax.models.families.family import (
    FULL,
    SLIDING,
    Family,
    Keys,
    layer_types,
    plain,
    plain_keys,
    read_head_dim,
    read_rope,
    window_of,
    write_scaling,
    written_types,
)
from alignax.models.families.llama import DEFAULTS, NAMES, PARTS
from alignax.models.families.qwen import NORMED
from alignax.models.rotary import Rope

log = logging.getLogger(__name__)
_PARTS = PARTS | {
    "attention_out_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_out_norm": "post_feedforward_layernorm",
}
_DEFAULTS = DEFAULTS | {
    "max_position_embeddings": 8192,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "layer_types": None,
}
_NEUTRAL = {"use_bidirectional_attention": (False, None), "mlp_bias": (False, None)}


def _read(keys: Keys, every: int, local: Rope | None, **changes: Any) -> DecoderConfig:
    """Every so many layers one sees everything; the others have a window, and `local`'s angles."""
    layers, width = keys.integer("num_hidden_layers"), keys.integer("hidden_size")
    head_dim = read_head_dim(keys, width, keys.integer("num_attention_heads"))
    default = [FULL if (i + 1) % every == 0 else SLIDING for i in range(layers)]
    rope, window = read_rope(keys, head_dim), keys.integer("sliding_window")
    sliding = LayerKind(window=window, rope=local or rope)
    types = layer_types(keys, layers, default)
    bias = keys.flag("attention_bias")
    return plain(
        keys,
        kinds=tuple(LayerKind(rope=rope) if kind == FULL else sliding for kind in types),
        norm_offset=1.0,
        norms="around",
        qkv_bias=bias,
        out_bias=bias,
        attention_scale=keys.number("query_pre_attn_scalar") ** -0.5,
        attention_softcap=keys.cap("attn_logit_softcapping"),
        logits_softcap=keys.cap("final_logit_softcapping"),
        activation=keys.activation("hidden_activation"),
        embed_scale=width**0.5,
        **changes,
    )


def _read_gemma2(keys: Keys) -> DecoderConfig:
    return _read(keys, 2, None)


def _read_gemma3(keys: Keys) -> DecoderConfig:
    every = keys.integer("sliding_window_pattern", 6)
    nested = Keys(keys.mapping("rope_parameters"), f"{keys.where}, rope_parameters")
    if nested.values and not nested.values.keys() & {FULL, SLIDING}:
        raise keys.wrong("rope_parameters", f"settings of {FULL} and {SLIDING}", nested.values)
    # `rope_scaling` is of the layers that see everything, and changes what is nested for them.
    scaled = {**nested.mapping(FULL), **keys.mapping("rope_scaling")}
    if keys.cap("attn_logit_softcapping") is not None:
        log.warning("%s: attn_logit_softcapping is passed over, as transformers does for this "
                    "model_type", keys.where)  # fmt: skip
    settings = {**keys.values, "rope_scaling": None, "rope_parameters": scaled,
                "attn_logit_softcapping": None}  # fmt: skip
    theta = keys.values["rope_local_base_freq"]
    windowed = {**settings, "rope_theta": theta, "rope_parameters": nested.mapping(SLIDING)}
    local = read_rope(keys._replace(values=windowed), 2)
    return _read(keys._replace(values=settings), every, local, qk_norm="head")


def _write(config: DecoderConfig) -> dict[str, Any]:
    written = plain_keys(config)
    written["hidden_activation"] = written.pop("hidden_act")
    scalar = (config.attention_scale or config.head_dim**-0.5) ** -2
    window = window_of(config)  # where no layer has one, the source's number stays and is not read
    return written | {
        "attention_bias": config.qkv_bias,
        # A whole number in every published file, and a root has been taken of it in between.
        "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-6 else scalar,
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logits_softcap,
        **({} if window is None else {"sliding_window": window}),
        "layer_types": written_types(config),
    }


def _write_gemma3(config: DecoderConfig) -> dict[str, Any]:
    written = _write(config)
    local = next((kind.rope for kind in config.kinds if kind.window and kind.rope), None)
    if local is None or local.scaling is None:
        return written | {"rope_local_base_freq": local.theta if local else 10_000.0}
    # The older keys cannot scale the layers that have a window; transformers 4 has no such models.
    full = written["rope_scaling"] or {"rope_type": "default"}
    nested = {
        FULL: full | {"rope_theta": written.pop("rope_theta")},
        SLIDING: (write_scaling(local) or {}) | {"rope_theta": local.theta},
    }
    return written | {"rope_scaling": None, "rope_parameters": nested}


FAMILIES = {
    "gemma2": Family(
        name="Gemma2",
        read=_read_gemma2,
        write=_write,
        names=NAMES._replace(parts=_PARTS),
        defaults=_DEFAULTS,
        neutral=_NEUTRAL,
    ),
    "gemma3_text": Family(
        name="Gemma3",
        read=_read_gemma3,
        write=_write_gemma3,
        names=NAMES._replace(parts=_PARTS | NORMED),
        defaults=_DEFAULTS
        | {
            "max_position_embeddings": 131_072,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "sliding_window_pattern": None,
            "_sliding_window_pattern": None,  # transformers writes it, and does not read it
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        },
        neutral=_NEUTRAL | {"original_max_position_embeddings": (None,)},
        classifier="Gemma3TextForSequenceClassification",
    ),
}
