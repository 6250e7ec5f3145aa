"""Llama 2 and 3.x, SmolLM2, Mistral and SmolLM3: the plain decoder and its near kin."""

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
    written_types,
)
from alignax.models.stored import Names

PARTS = {
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "score": "score",
    "attention_norm": "input_layernorm",
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/out": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "mlp/gate": "mlp.gate_proj",
    "mlp/up": "mlp.up_proj",
    "mlp/down": "mlp.down_proj",
}
NAMES = Names(PARTS, dropped=("rotary_emb.inv_freq",))
DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
}
WINDOWLESS = "without windows, since use_sliding_window is off or sliding_window is null"
NO_BIAS = {"attention_bias": (False, None), "mlp_bias": (False, None)}


def _read_llama(keys: Keys) -> DecoderConfig:
    bias = keys.flag("attention_bias")
    return plain(keys, qkv_bias=bias, out_bias=bias, mlp_bias=keys.flag("mlp_bias"))


def _write_llama(config: DecoderConfig) -> dict[str, Any]:
    biases = {"attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}
    return plain_keys(config) | biases


def read_windowed(keys: Keys, **changes: Any) -> DecoderConfig:
    """A plain decoder whose layers all have the same window, where there is one."""
    config = plain(keys, **changes)
    window = keys.integer("sliding_window", 0) or None
    return plain(keys, kinds=(LayerKind(window=window, rope=config.kinds[0].rope),), **changes)


def write_windowed(config: DecoderConfig) -> dict[str, Any]:
    """What `read_windowed` reads."""
    return plain_keys(config) | {"sliding_window": window_of(config)}


def _read_smollm3(keys: Keys) -> DecoderConfig:
    layers, width = keys.integer("num_hidden_layers"), keys.integer("hidden_size")
    heads = keys.integer("num_attention_heads")
    rope = read_rope(keys, read_head_dim(keys, width, heads))
    every = keys.integer("no_rope_layer_interval")
    turns = keys.values.get("no_rope_layers")  # 1 where a layer does have rotary positions
    if turns is None:
        turns = [int((i + 1) % every != 0) for i in range(layers)]
    if not isinstance(turns, list) or len(turns) != layers or any(x not in (0, 1) for x in turns):
        raise keys.wrong("no_rope_layers", f"a list of {layers} zeros and ones", turns)
    window = keys.integer("sliding_window", 0) if keys.flag("use_sliding_window") else 0
    default = [SLIDING if window and not turn else FULL for turn in turns]
    types = layer_types(keys, layers, default)
    if not window and SLIDING in types:
        raise keys.wrong("layer_types", WINDOWLESS, types)
    kinds = tuple(
        LayerKind(window=window if kind == SLIDING else None, rope=rope if turn else None)
        for kind, turn in zip(types, turns, strict=True)
    )
    bias = keys.flag("attention_bias")
    return plain(keys, kinds=kinds, qkv_bias=bias, out_bias=bias, mlp_bias=keys.flag("mlp_bias"))


def _write_smollm3(config: DecoderConfig) -> dict[str, Any]:
    turns = [int(config.kind(i).rope is not None) for i in range(config.layers)]
    window = window_of(config)
    return _write_llama(config) | {
        "no_rope_layers": turns,
        "layer_types": written_types(config),
        "use_sliding_window": window is not None,
        "sliding_window": window,
    }


FAMILIES = {
    "llama": Family(
        name="Llama",
        read=_read_llama,
        write=_write_llama,
        names=NAMES,
        defaults=DEFAULTS
        | {"max_position_embeddings": 2048, "attention_bias": False, "mlp_bias": False},
        neutral={"pretraining_tp": (1, None), "rope_interleaved": (False, None)},
    ),
    "mistral": Family(
        name="Mistral",
        read=read_windowed,
        write=write_windowed,
        names=NAMES,
        defaults=DEFAULTS
        | {"max_position_embeddings": 131_072, "num_key_value_heads": 8, "sliding_window": 4096},
        neutral=NO_BIAS,
    ),
    "smollm3": Family(
        name="SmolLM3",
        read=_read_smollm3,
        write=_write_smollm3,
        names=NAMES,
        defaults=DEFAULTS
        | {
            "max_position_embeddings": 32_768,
            "num_key_value_heads": 4,
            "rope_theta": 2_000_000.0,
            "tie_word_embeddings": True,
            "attention_bias": False,
            "mlp_bias": False,
            "no_rope_layers": None,
            "no_rope_layer_interval": 4,
            "use_sliding_window": False,
            "sliding_window": None,
            "layer_types": None,
        },
        neutral={"pretraining_tp": (1, 2, None)},
    ),
}
