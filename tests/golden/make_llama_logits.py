"""Makes llama_logits.npz: what transformers itself computes for tiny Llamas and Mistrals.

    python tests/golden/make_llama_logits.py

Needs torch and transformers, which nothing else here does; their versions are stored inside.
Weights are not stored: both sides make them by `weights`, from the name of each tensor. `CASES`
are in the keys of transformers 4; the file holds the configs as transformers wrote them, so that
the tests read both. For every case: two sequences that share a prompt, each run on its own.

    {case}/logits        [2, 6, v]  at POSITIONS, float32
    {case}/logprobs      [2, t - 1] of every next token
    {case}/gradient/...  of the summed log-probs of the responses' tokens
    {case}/bf16_error    root mean square error of these logits where torch computes in bfloat16
"""

import json
import zlib
from pathlib import Path

import numpy as np

PROMPT, LENGTH, VOCAB = 28, 42, 64
POSITIONS = (0, 13, 27, 28, 35, 40)
GRADIENTS = (
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.self_attn.o_proj.weight",
    "model.layers.1.input_layernorm.weight",
    "model.layers.2.self_attn.k_proj.bias",
    "model.layers.2.mlp.down_proj.weight",
)

_BASE = {
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    "pad_token_id": None,
}
# The window of 32 puts planes into all three ranges: kept, interpolated, stretched.
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 32}  # fmt: skip
CASES = {
    "grouped_tied": _BASE | {"tie_word_embeddings": True, "rope_theta": 100_000.0},
    "untied": _BASE | {"num_key_value_heads": 4},
    "llama3_scaling": _BASE | {"head_dim": 16, "rope_scaling": _LLAMA3},
    "linear_scaling": _BASE | {"rope_scaling": {"type": "linear", "factor": 3.0}},
    "biases": _BASE | {"attention_bias": True, "mlp_bias": True},
    "wide_heads": _BASE | {"head_dim": 12, "num_key_value_heads": 1},
    "window": _BASE | {"model_type": "mistral", "sliding_window": 9},
}


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of that name: seeded by the name, so that no order of making them matters."""
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if "norm" in name:
        draw = 1.0 + 0.1 * draw
    elif name.endswith("bias"):
        draw = 0.1 * draw
    else:
        draw = 0.2 * draw
    return draw.astype(np.float32)


def tokens() -> np.ndarray:
    """Two sequences with the same prompt."""
    draw = np.random.default_rng(0).integers(0, VOCAB, (2, LENGTH))
    draw[1, :PROMPT] = draw[0, :PROMPT]
    return draw


def main() -> None:
    import torch
    import transformers

    def logits(model):
        return torch.cat([model(row[None]).logits for row in torch.tensor(tokens())]).float()

    stored = {"versions": f"torch {torch.__version__}, transformers {transformers.__version__}"}
    configs = {}
    for case, settings in CASES.items():
        settings = dict(settings)
        config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
        configs[case] = config.to_dict()
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        names = dict(model.named_parameters())
        for name, parameter in names.items():
            parameter.data = torch.tensor(weights(name, tuple(parameter.shape)))
        exact = logits(model)
        target = torch.tensor(tokens())[:, 1:, None]
        logprobs = exact.log_softmax(-1)[:, :-1].gather(-1, target)[..., 0]
        logprobs[:, PROMPT - 1 :].sum().backward()
        stored[f"{case}/logits"] = exact.detach().numpy()[:, POSITIONS]
        stored[f"{case}/logprobs"] = logprobs.detach().numpy()
        for name in GRADIENTS:
            if name in names:
                stored[f"{case}/gradient/{name}"] = names[name].grad.numpy()
        with torch.no_grad():
            error = (logits(model.to(torch.bfloat16)) - exact)[:, POSITIONS]
        stored[f"{case}/bf16_error"] = error.square().mean().sqrt().numpy()
    stored["configs"] = json.dumps(configs)
    np.savez_compressed(Path(__file__).with_name("llama_logits.npz"), **stored)


if __name__ == "__main__":
    main()
