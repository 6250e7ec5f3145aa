"""GPT-2, and GPT-NeoX with Pythia: norms with a mean, plain MLPs, and biases everywhere."""

from typing import Any

from alignax.models.config import DecoderConfig, LayerKind
from alignax.models.families.family import (
    Family,
    Keys,
    num_labels,
    plain,
    plain_keys,
    read_head_dim,
    turning_share,
)
from alignax.models.stored import Names

_ACTIVATIONS = {"gelu_tanh": "gelu_new"}


def _read_gpt2(keys: Keys) -> DecoderConfig:
    width, heads = keys.integer("n_embd"), keys.integer("n_head")
    return DecoderConfig(
        vocab_size=keys.integer("vocab_size"),
        width=width,
        layers=keys.integer("n_layer"),
        heads=heads,
        kv_heads=heads,
        head_dim=read_head_dim(keys, width, heads, turns=False),
        mlp_width=keys.integer("n_inner", 4 * width),
        max_positions=keys.integer("n_positions"),
        kinds=(LayerKind(rope=None),),
        norm="layer",
        norm_eps=keys.number("layer_norm_epsilon"),
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        activation=keys.activation("activation_function"),
        gated=False,
        tied=keys.flag("tie_word_embeddings"),
        learned_positions=True,
        init_scale=keys.number("initializer_range"),
        num_scores=num_labels(keys),
    )


def _write_gpt2(config: DecoderConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.mlp_width,
        "n_positions": config.max_positions,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": _ACTIVATIONS.get(config.activation, config.activation),
        "tie_word_embeddings": config.tied,
        "initializer_range": config.init_scale,
    }


def _read_neox(keys: Keys) -> DecoderConfig:
    heads, values = keys.integer("num_attention_heads"), dict(keys.values)
    # The older names, which published files have. transformers may write these two beside
    # `rope_parameters`, and does not read them.
    values["partial_rotary_factor"] = values["rotary_pct"]
    values["rope_theta"] = values["rotary_emb_base"]
    values["rms_norm_eps"], values["num_key_value_heads"] = values["layer_norm_eps"], heads
    keys = Keys(values, keys.where)
    bias = keys.flag("attention_bias")
    return plain(
        keys,
        norm="layer",
        parallel=keys.flag("use_parallel_residual"),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=True,
        gated=False,
    )


def _write_neox(config: DecoderConfig) -> dict[str, Any]:
    written = plain_keys(config)
    for key in ("rms_norm_eps", "head_dim", "num_key_value_heads"):
        del written[key]
    written["hidden_act"] = _ACTIVATIONS.get(config.activation, config.activation)
    return written | {
        "layer_norm_eps": config.norm_eps,
        "rotary_pct": turning_share(config.kinds[0].rope, config.head_dim),
        "rotary_emb_base": written.pop("rope_theta"),
        "use_parallel_residual": config.parallel,
        "attention_bias": config.qkv_bias,
    }


FAMILIES = {
    "gpt2": Family(
        name="GPT2",
        read=_read_gpt2,
        write=_write_gpt2,
        names=Names(
            {
                "embed": "transformer.wte",
                "positions": "transformer.wpe",
                "norm": "transformer.ln_f",
                "head": "lm_head",
                "score": "score",
                "attention_norm": "ln_1",
                "attention/query": "attn.c_attn",
                "attention/key": "attn.c_attn",
                "attention/value": "attn.c_attn",
                "attention/out": "attn.c_proj",
                "mlp_norm": "ln_2",
                "mlp/up": "mlp.c_fc",
                "mlp/down": "mlp.c_proj",
            },
            layers="transformer.h",
            inputs_first=True,
            dropped=(".attn.bias", ".attn.masked_bias"),
            optional="transformer.",
        ),
        defaults={
            "n_inner": None,
            "n_positions": 1024,
            "layer_norm_epsilon": 1e-5,
            "activation_function": "gelu_new",
            "tie_word_embeddings": True,
            "initializer_range": 0.02,
        },
        neutral={
            "scale_attn_weights": (True, None),
            "scale_attn_by_inverse_layer_idx": (False, None),
            "add_cross_attention": (False, None),
        },
        causal="LMHeadModel",
    ),
    "gpt_neox": Family(
        name="GPTNeoX",
        read=_read_neox,
        write=_write_neox,
        names=Names(
            {
                "embed": "gpt_neox.embed_in",
                "norm": "gpt_neox.final_layer_norm",
                "head": "embed_out",
                "score": "score",
                "attention_norm": "input_layernorm",
                "attention/query": "attention.query_key_value",
                "attention/key": "attention.query_key_value",
                "attention/value": "attention.query_key_value",
                "attention/out": "attention.dense",
                "mlp_norm": "post_attention_layernorm",
                "mlp/up": "mlp.dense_h_to_4h",
                "mlp/down": "mlp.dense_4h_to_h",
            },
            layers="gpt_neox.layers",
            shared="head_dim",
            dropped=(".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"),
        ),
        defaults={
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 2048,
            "rotary_pct": 0.25,
            "rotary_emb_base": 10_000.0,
            "partial_rotary_factor": None,
            "rope_theta": None,
            "use_parallel_residual": True,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "initializer_range": 0.02,
        },
    ),
}
