"""Phi-3, OLMo-2 and Mixtral: one change each to the plain decoder."""

from typing import Any

from alignax.core.errors import BadInput
from alignax.models.config import DecoderConfig, Experts
from alignax.models.families.family import (
    Family,
    Keys,
    plain,
    plain_keys,
    short_head_dim,
    turning_share,
    write_scaling,
)
from alignax.models.families.llama import (
    DEFAULTS,
    NAMES,
    NO_BIAS,
    PARTS,
    read_windowed,
    write_windowed,
)
from alignax.models.families.qwen import NORMED


def _read_phi3(keys: Keys) -> DecoderConfig:
    config = read_windowed(keys)
    scaling = write_scaling(config.kinds[0].rope)
    if scaling:
        raise BadInput(
            "rotary positions of the type default, since phi3 has no other but longrope",
            repr(scaling["rope_type"]),
            "transformers refuses it too; choose other weights.",
            where=keys.where,
        )
    return config


def _write_phi3(config: DecoderConfig) -> dict[str, Any]:
    share = turning_share(config.kinds[0].rope, config.head_dim)
    return short_head_dim(write_windowed(config)) | {"partial_rotary_factor": share}


def _read_olmo2(keys: Keys) -> DecoderConfig:
    bias = keys.flag("attention_bias")
    return plain(keys, norms="after", qk_norm="all", qkv_bias=bias, out_bias=bias)


def _write_olmo2(config: DecoderConfig) -> dict[str, Any]:
    return short_head_dim(plain_keys(config)) | {"attention_bias": config.qkv_bias}


def _read_mixtral(keys: Keys) -> DecoderConfig:
    count, per_token = keys.integer("num_local_experts"), keys.integer("num_experts_per_tok")
    return read_windowed(keys, experts=Experts(count=count, per_token=per_token))


def _write_mixtral(config: DecoderConfig) -> dict[str, Any]:
    assert config.experts is not None
    return write_windowed(config) | {
        "num_local_experts": config.experts.count,
        "num_experts_per_tok": config.experts.per_token,
    }


FAMILIES = {
    "phi3": Family(
        name="Phi3",
        read=_read_phi3,
        write=_write_phi3,
        names=NAMES._replace(
            parts=PARTS
            | {f"attention/{part}": "self_attn.qkv_proj" for part in ("query", "key", "value")}
            | {f"mlp/{part}": "mlp.gate_up_proj" for part in ("gate", "up")}
        ),
        defaults=DEFAULTS
        | {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "partial_rotary_factor": 1.0,
            "sliding_window": None,
        },
        neutral=NO_BIAS,
    ),
    "olmo2": Family(
        name="Olmo2",
        read=_read_olmo2,
        write=_write_olmo2,
        names=NAMES._replace(
            parts=PARTS
            | NORMED
            | {
                "attention_out_norm": "post_attention_layernorm",
                "mlp_out_norm": "post_feedforward_layernorm",
            }
        ),
        defaults=DEFAULTS
        | {"rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "attention_bias": False},
        neutral={"clip_qkv": (None,), "mlp_bias": (False, None)},
    ),
    "mixtral": Family(
        name="Mixtral",
        read=_read_mixtral,
        write=_write_mixtral,
        names=NAMES._replace(
            parts=PARTS
            | {
                "mlp/router": "block_sparse_moe.gate",
                "mlp/gate": "block_sparse_moe.experts.{}.w1",
                "mlp/up": "block_sparse_moe.experts.{}.w3",
                "mlp/down": "block_sparse_moe.experts.{}.w2",
            }
        ),
        defaults=DEFAULTS
        | {
            "rms_norm_eps": 1e-5,
            "rope_theta": 1_000_000.0,
            "max_position_embeddings": 131_072,
            "num_key_value_heads": 8,
            "sliding_window": None,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
        neutral=NO_BIAS,
    ),
}
