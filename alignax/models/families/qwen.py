"""Qwen2 and 2.5 (biases into attention), Qwen3 (queries and keys normed), and Qwen3's experts."""

from typing import Any

from alignax.models.config import DecoderConfig, Experts, LayerKind
from alignax.models.families.family import (
    FULL,
    SLIDING,
    Family,
    Keys,
    layer_types,
    plain,
    plain_keys,
    window_of,
    written_types,
)
from alignax.models.families.llama import DEFAULTS, NAMES, PARTS, WINDOWLESS
from alignax.models.stored import Names

_DEFAULTS = DEFAULTS | {
    "max_position_embeddings": 32_768,
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
NORMED = {"attention/query_norm": "self_attn.q_norm", "attention/key_norm": "self_attn.k_norm"}


def _read(keys: Keys, **changes: Any) -> DecoderConfig:
    config = plain(keys, **changes)
    window = keys.integer("sliding_window", 0) if keys.flag("use_sliding_window") else 0
    first = keys.integer("max_window_layers", 0)  # the first layer that has a window
    default = [SLIDING if window and i >= first else FULL for i in range(config.layers)]
    types = layer_types(keys, config.layers, default)
    if not window and SLIDING in types:
        raise keys.wrong("layer_types", WINDOWLESS, types)
    rope = config.kinds[0].rope
    kinds = tuple(LayerKind(window=window if t == SLIDING else None, rope=rope) for t in types)
    return plain(keys, kinds=kinds, **changes)


def _write(config: DecoderConfig) -> dict[str, Any]:
    types, window = written_types(config), window_of(config)
    first = {"max_window_layers": types.index(SLIDING)} if window else {}
    return (
        plain_keys(config)
        | first
        | {
            "use_sliding_window": window is not None,
            "sliding_window": window,
            "layer_types": types,
        }
    )


def _read_qwen3(keys: Keys, **changes: Any) -> DecoderConfig:
    bias = keys.flag("attention_bias")
    return _read(keys, qkv_bias=bias, out_bias=bias, qk_norm="head", **changes)


def _write_qwen3(config: DecoderConfig) -> dict[str, Any]:
    return _write(config) | {"attention_bias": config.qkv_bias}


def _read_experts(keys: Keys) -> DecoderConfig:
    # Some layers may be dense there, which no published model of the family is.
    if keys.values.get("mlp_only_layers") or keys.values.get("decoder_sparse_step") != 1:
        key = "mlp_only_layers" if keys.values.get("mlp_only_layers") else "decoder_sparse_step"
        raise keys.wrong(key, "such that all layers have experts", keys.values[key])
    experts = Experts(
        count=keys.integer("num_experts", keys.integer("num_local_experts", 128)),
        per_token=keys.integer("num_experts_per_tok"),
        normalised=keys.flag("norm_topk_prob"),
    )
    width = keys.integer("moe_intermediate_size")
    # All layers have the window or none has, whatever these keys say.
    keys = keys._replace(values={**keys.values, "max_window_layers": 0, "layer_types": None})
    return _read_qwen3(keys, experts=experts, mlp_width=width)


def _write_experts(config: DecoderConfig) -> dict[str, Any]:
    written = _write_qwen3(config)
    for key in ("layer_types", "intermediate_size"):  # all layers have experts, and see alike
        del written[key]
    assert config.experts is not None
    return written | {
        "num_experts": config.experts.count,
        "num_experts_per_tok": config.experts.per_token,
        "norm_topk_prob": config.experts.normalised,
        "moe_intermediate_size": config.mlp_width,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


FAMILIES = {
    "qwen2": Family(
        name="Qwen2",
        read=lambda keys: _read(keys, qkv_bias=True),
        write=_write,
        names=NAMES,
        defaults=_DEFAULTS | {"layer_types": None},
        neutral={"use_mrope": (False, None), "mlp_bias": (False, None)},
    ),
    "qwen3": Family(
        name="Qwen3",
        read=_read_qwen3,
        write=_write_qwen3,
        names=NAMES._replace(parts=PARTS | NORMED),
        defaults=_DEFAULTS | {"head_dim": 128, "attention_bias": False, "layer_types": None},
        neutral={"mlp_bias": (False, None)},
    ),
    "qwen3_moe": Family(
        name="Qwen3Moe",
        read=_read_experts,
        write=_write_experts,
        names=Names(
            PARTS
            | NORMED
            | {
                "mlp/router": "mlp.gate",
                "mlp/gate": "mlp.experts.{}.gate_proj",
                "mlp/up": "mlp.experts.{}.up_proj",
                "mlp/down": "mlp.experts.{}.down_proj",
            }
        ),
        defaults=_DEFAULTS
        | {
            "num_key_value_heads": 4,
            "intermediate_size": 6144,
            "attention_bias": False,
            "num_experts": None,
            "num_local_experts": None,
            "num_experts_per_tok": 8,
            "norm_topk_prob": False,
            "moe_intermediate_size": 768,
            "decoder_sparse_step": 1,
            "mlp_only_layers": None,
        },
        neutral={"mlp_bias": (False, None)},
    ),
}
