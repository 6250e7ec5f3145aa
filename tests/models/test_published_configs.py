"""config.json as vendors publish it, key by key, gives the number of parameters that they state."""

import pytest

from alignax.models.families import from_hugging_face
from alignax.models.transformer import Decoder

# Only keys that say something of the shape or the arithmetic are kept, and one or two that do not.
PUBLISHED = {
    "gpt2": (124_439_808, {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 50257,
        "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-05, "resid_pdrop": 0.1,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}}),
    "pythia-160m": (162_322_944, {
        "model_type": "gpt_neox", "hidden_act": "gelu", "hidden_size": 768, "vocab_size": 50304,
        "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
        "max_position_embeddings": 2048, "rotary_emb_base": 10000, "rotary_pct": 0.25,
        "layer_norm_eps": 1e-05, "tie_word_embeddings": False, "use_parallel_residual": True}),
    "Mistral-7B-v0.1": (7_241_732_096, {
        "model_type": "mistral", "hidden_act": "silu", "hidden_size": 4096, "vocab_size": 32000,
        "intermediate_size": 14336, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "max_position_embeddings": 32768, "rope_theta": 10000.0,
        "rms_norm_eps": 1e-05, "sliding_window": 4096, "tie_word_embeddings": False}),
    "Mixtral-8x7B-v0.1": (46_702_792_704, {
        "model_type": "mixtral", "hidden_act": "silu", "hidden_size": 4096, "vocab_size": 32000,
        "intermediate_size": 14336, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "max_position_embeddings": 32768, "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-05, "sliding_window": None, "num_local_experts": 8,
        "num_experts_per_tok": 2, "router_aux_loss_coef": 0.02, "output_router_logits": False}),
    "Qwen2.5-0.5B": (494_032_768, {
        "model_type": "qwen2", "hidden_act": "silu", "hidden_size": 896, "vocab_size": 151936,
        "intermediate_size": 4864, "num_attention_heads": 14, "num_hidden_layers": 24,
        "num_key_value_heads": 2, "max_position_embeddings": 32768, "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-06, "max_window_layers": 24, "sliding_window": 32768,
        "use_sliding_window": False, "use_mrope": False, "tie_word_embeddings": True}),
    "Qwen3-0.6B": (596_049_920, {
        "model_type": "qwen3", "hidden_act": "silu", "hidden_size": 1024, "vocab_size": 151936,
        "intermediate_size": 3072, "num_attention_heads": 16, "num_hidden_layers": 28,
        "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960,
        "rope_theta": 1000000, "rope_scaling": None, "rms_norm_eps": 1e-06,
        "attention_bias": False, "max_window_layers": 28, "sliding_window": None,
        "use_sliding_window": False, "tie_word_embeddings": True}),
    "Qwen3-30B-A3B": (30_532_122_624, {
        "model_type": "qwen3_moe", "hidden_act": "silu", "hidden_size": 2048,
        "vocab_size": 151936, "intermediate_size": 6144, "moe_intermediate_size": 768,
        "num_attention_heads": 32, "num_hidden_layers": 48, "num_key_value_heads": 4,
        "head_dim": 128, "max_position_embeddings": 40960, "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-06, "attention_bias": False, "decoder_sparse_step": 1,
        "mlp_only_layers": [], "norm_topk_prob": True, "num_experts": 128,
        "num_experts_per_tok": 8, "max_window_layers": 48, "sliding_window": None,
        "use_sliding_window": False, "tie_word_embeddings": False}),
    "SmolLM3-3B": (3_075_098_624, {
        "model_type": "smollm3", "hidden_act": "silu", "hidden_size": 2048, "vocab_size": 128256,
        "intermediate_size": 11008, "num_attention_heads": 16, "num_hidden_layers": 36,
        "num_key_value_heads": 4, "max_position_embeddings": 65536, "rope_theta": 5000000.0,
        "rms_norm_eps": 1e-06, "no_rope_layers": [1, 1, 1, 0] * 9, "no_rope_layer_interval": 4,
        "layer_types": ["full_attention"] * 36, "max_window_layers": 28, "pretraining_tp": 2,
        "sliding_window": None, "use_sliding_window": False, "mlp_bias": False}),
    "gemma-2-2b": (2_614_341_888, {
        "model_type": "gemma2", "hidden_act": "gelu_pytorch_tanh", "hidden_size": 2304,
        "hidden_activation": "gelu_pytorch_tanh", "vocab_size": 256000, "head_dim": 256,
        "intermediate_size": 9216, "num_attention_heads": 8, "num_hidden_layers": 26,
        "num_key_value_heads": 4, "max_position_embeddings": 8192, "rope_theta": 10000.0,
        "rms_norm_eps": 1e-06, "query_pre_attn_scalar": 256, "sliding_window": 4096,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
        "cache_implementation": "hybrid"}),
    "gemma-3-1b": (999_885_952, {
        "model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1152, "vocab_size": 262144, "head_dim": 256, "intermediate_size": 6912,
        "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
        "max_position_embeddings": 32768, "rope_theta": 1000000, "rope_local_base_freq": 10000,
        "rope_scaling": None, "rms_norm_eps": 1e-06, "query_pre_attn_scalar": 256,
        "sliding_window": 512, "sliding_window_pattern": 6, "attn_logit_softcapping": None,
        "final_logit_softcapping": None, "cache_implementation": "hybrid"}),
    "Phi-3-mini-4k-instruct": (3_821_079_552, {
        "model_type": "phi3", "hidden_act": "silu", "hidden_size": 3072, "vocab_size": 32064,
        "intermediate_size": 8192, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 32, "max_position_embeddings": 4096, "rope_theta": 10000.0,
        "original_max_position_embeddings": 4096, "rope_scaling": None, "rms_norm_eps": 1e-05,
        "sliding_window": 2047, "attention_bias": False, "tie_word_embeddings": False}),
    "OLMo-2-0425-1B": (1_484_916_736, {
        "model_type": "olmo2", "hidden_act": "silu", "hidden_size": 2048, "vocab_size": 100352,
        "intermediate_size": 8192, "num_attention_heads": 16, "num_hidden_layers": 16,
        "num_key_value_heads": 16, "max_position_embeddings": 4096, "rope_theta": 500000,
        "rope_scaling": None, "rms_norm_eps": 1e-06, "attention_bias": False,
        "tie_word_embeddings": False}),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_has_its_vendors_number_of_parameters(name):
    count, config = PUBLISHED[name]
    assert Decoder(config=from_hugging_face(config, name)).num_params == count


def test_windows_and_angles_of_gemma_3_stand_in_five_layers_of_six():
    config = from_hugging_face(PUBLISHED["gemma-3-1b"][1], "c")
    windows = [config.kind(i).window for i in range(config.layers)]
    assert windows == ([512] * 5 + [None]) * 4 + [512] * 2
    thetas = {kind.window: kind.rope.theta for kind in config.kinds if kind.rope}
    assert thetas == {512: 10_000.0, None: 1_000_000.0}
