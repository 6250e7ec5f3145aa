"""Makes family_logits.npz: what transformers computes for a tiny model of every further family.

    python tests/golden/make_family_logits.py

Needs torch and transformers, which nothing else here does; their versions are stored inside. The
Llamas and Mistrals are in make_llama_logits.py, whose tokens and weights these models have too.
For every case, sequences run each on its own:

    {case}/logits        [2, 6, v] at POSITIONS, float32
    {case}/logprobs      [2, t - 1] of every next token
    {case}/gradient/...  of the summed log-probs of the responses' tokens: `ENTRIES` entries of
                         each tensor, drawn by its name, and after them its norm; as saved
    {case}/bf16_error    root mean square error of these logits where torch computes in bfloat16
    tensors              {case: {name: shape}}, as save_pretrained writes them
    configs              {case: config.json}, likewise; `CASES` has older keys
    scores               {case: class} of the sequence classifier
"""

import json
import zlib
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.golden import make_llama_logits as llama

ENTRIES = 12
_BASE = {key: value for key, value in llama._BASE.items() if key != "rms_norm_eps"}
_QWEN = _BASE | {"rms_norm_eps": 1e-6}
_WINDOW = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
_GEMMA = _QWEN | {"head_dim": 12, "sliding_window": 9, "tie_word_embeddings": True,
                  "num_hidden_layers": 4, "hidden_activation": "gelu_pytorch_tanh"}  # fmt: skip
_NEOX = {key: value for key, value in _BASE.items() if key not in (
    "num_key_value_heads", "rope_theta")} | {
    "model_type": "gpt_neox", "rotary_pct": 0.5, "rotary_emb_base": 10_000.0}  # fmt: skip
_EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
CASES = {
    "qwen2": _QWEN | {"model_type": "qwen2"},
    "qwen2_windows": _QWEN | {"model_type": "qwen2"} | _WINDOW,
    "qwen2_yarn": _QWEN | {"model_type": "qwen2", "rope_scaling": _YARN},
    "qwen3": _QWEN | {"model_type": "qwen3", "head_dim": 12, "tie_word_embeddings": True},
    "qwen3_moe": _QWEN | {"model_type": "qwen3_moe", "head_dim": 12} | _EXPERTS,
    "qwen3_moe_normalised": _QWEN
    | {"model_type": "qwen3_moe", "head_dim": 12, "norm_topk_prob": True}
    | _EXPERTS,
    "smollm3": _QWEN
    | {"model_type": "smollm3", "num_hidden_layers": 5, "tie_word_embeddings": True},
    "gemma2": _GEMMA
    | {"model_type": "gemma2", "query_pre_attn_scalar": 20, "attn_logit_softcapping": 2.0,
       "final_logit_softcapping": 3.0},
    "gemma3": _GEMMA
    | {"model_type": "gemma3_text", "query_pre_attn_scalar": 12, "num_hidden_layers": 7,
       "rope_theta": 1_000_000.0, "rope_local_base_freq": 100.0,
       "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "phi3": _BASE | {"model_type": "phi3", "sliding_window": 9},
    "phi3_partial": _BASE | {"model_type": "phi3", "partial_rotary_factor": 0.5},
    "olmo2": _BASE | {"model_type": "olmo2", "rope_theta": 500_000.0},
    "mixtral": _BASE | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt2": {"model_type": "gpt2", "vocab_size": llama.VOCAB, "n_embd": 32, "n_layer": 3,
             "n_head": 4, "n_positions": 64, "n_inner": 48},
    "neox": _NEOX,
    "neox_sequential": _NEOX | {"use_parallel_residual": False, "hidden_act": "gelu_new"},
}  # fmt: skip


def weights(case: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """As for the Llamas; GPT-2's norms are known as such too, and Gemma's are less by 1."""
    drawn = llama.weights(name.replace(".ln_", ".norm_"), shape)
    return drawn - np.float32(1) if case.startswith("gemma") and "norm" in name else drawn


def entries(name: str, size: int) -> np.ndarray:
    """Which entries of a tensor's gradient are stored."""
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, size, ENTRIES)


def main() -> None:
    import tempfile

    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    def logits(model):
        rows = torch.tensor(llama.tokens())
        return torch.cat([model(row[None]).logits for row in rows]).float()

    stored = {"versions": f"torch {torch.__version__}, transformers {transformers.__version__}"}
    configs, tensors, scores = {}, {}, {}

    def saved(model):
        with tempfile.TemporaryDirectory() as directory:
            model.save_pretrained(directory)
            config = json.loads((Path(directory) / "config.json").read_text())
            return config, load_file(Path(directory) / "model.safetensors")

    for case, settings in CASES.items():
        settings = dict(settings)
        config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
        config._attn_implementation = "eager"
        make = transformers.AutoModelForCausalLM
        configs[case], written = saved(make.from_config(config))
        tensors[case] = {name: list(tensor.shape) for name, tensor in written.items()}
        with tempfile.TemporaryDirectory() as directory:
            # By way of a file, so that what is fused in memory and not in the file is no concern.
            path = Path(directory)
            (path / "config.json").write_text(json.dumps(configs[case]))
            made = {n: torch.tensor(weights(case, n, tuple(t.shape))) for n, t in written.items()}
            save_file(made, path / "model.safetensors", metadata={"format": "pt"})
            model = make.from_pretrained(path, attn_implementation="eager").float().eval()
        exact = logits(model)
        target = torch.tensor(llama.tokens())[:, 1:, None]
        logprobs = exact.log_softmax(-1)[:, :-1].gather(-1, target)[..., 0]
        logprobs[:, llama.PROMPT - 1 :].sum().backward()
        stored[f"{case}/logits"] = exact.detach().numpy()[:, llama.POSITIONS]
        stored[f"{case}/logprobs"] = logprobs.detach().numpy()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.grad)  # so that gradients are saved as weights are
        for name, gradient in saved(model)[1].items():
            flat = gradient.numpy().ravel()
            kept = flat[entries(name, flat.size)]
            stored[f"{case}/gradient/{name}"] = np.append(kept, np.linalg.norm(flat))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.grad = None
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory)
            (path / "config.json").write_text(json.dumps(configs[case]))
            save_file(made, path / "model.safetensors", metadata={"format": "pt"})
            model = make.from_pretrained(path, attn_implementation="eager", dtype=torch.bfloat16)
            with torch.no_grad():
                error = (logits(model.eval()) - exact)[:, llama.POSITIONS]
        stored[f"{case}/bf16_error"] = error.square().mean().sqrt().numpy()
        judge = transformers.AutoModelForSequenceClassification.from_config(config)
        scores[case] = type(judge).__name__
        print(case, scores[case], float(exact.detach().abs().max()), stored[f"{case}/bf16_error"])
    stored |= {"configs": json.dumps(configs), "tensors": json.dumps(tensors)}
    stored["scores"] = json.dumps(scores)
    np.savez_compressed(Path(__file__).with_name("family_logits.npz"), **stored)


if __name__ == "__main__":
    main()
