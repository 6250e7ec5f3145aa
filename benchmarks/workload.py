"""The files that every program reads: one model, one set of rows, one tokenizer of words.

The weights are drawn here and not in the programs, so that all begin from the same numbers. The
tokenizer knows the words `w4`, `w5`, ... of its ids, for libraries that will be given texts alone.
"""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from benchmarks.shapes import END, SPECIAL, Model, Shape

SCALE = 0.02  # deviation of the weights
NUMBERS = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def write(folder: Path, shape: Shape, count: int, seed: int = 0, dtype: str = "float32") -> None:
    """Writes `model/` and `rows.json`, with this many rows."""
    head = shape.task == "reward"
    write_model(folder / "model", shape.model, head=head, seed=seed, dtype=dtype)
    (folder / "rows.json").write_text(json.dumps(shape.rows(count, seed)))


def write_model(
    directory: Path, model: Model, *, head: bool = False, seed: int = 0, dtype: str = "float32"
) -> None:
    """Writes a random Llama in Hugging Face's layout, with its tokenizer.

    Args:
        head: one score a response in place of the vocabulary's logits.
        dtype: of the weights in the file, float32 or bfloat16; drawn as float32 for the second,
            which is faster, as models in it are large.
    """
    directory.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    size = model.width // model.heads

    def draw(*shape: int) -> np.ndarray:
        if dtype == "float32":
            return generator.normal(0.0, SCALE, shape).astype(np.float32)
        drawn = generator.standard_normal(shape, np.float32)
        return np.multiply(drawn, np.float32(SCALE), out=drawn).astype(NUMBERS[dtype])

    def ones() -> np.ndarray:
        return np.ones(model.width, NUMBERS[dtype])

    tensors = {"model.embed_tokens.weight": draw(model.vocab, model.width)}
    for layer in range(model.layers):
        shapes = {
            "self_attn.q_proj": (model.heads * size, model.width),
            "self_attn.k_proj": (model.kv_heads * size, model.width),
            "self_attn.v_proj": (model.kv_heads * size, model.width),
            "self_attn.o_proj": (model.width, model.heads * size),
            "mlp.gate_proj": (model.mlp_width, model.width),
            "mlp.up_proj": (model.mlp_width, model.width),
            "mlp.down_proj": (model.width, model.mlp_width),
        }
        at = f"model.layers.{layer}."
        tensors |= {f"{at}{name}.weight": draw(*shape) for name, shape in shapes.items()}
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}{name}.weight"] = ones()
    tensors["model.norm.weight"] = ones()
    if head:
        tensors["score.weight"] = draw(1, model.width)
    elif not model.tied:
        tensors["lm_head.weight"] = draw(model.vocab, model.width)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["LlamaForSequenceClassification" if head else "LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": model.width,
        "intermediate_size": model.mlp_width,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": size,
        "vocab_size": model.vocab,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,  # what the Llama of Tunix 0.1.7 has, whatever its config says
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": model.tied,
        "initializer_range": SCALE,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": END,
        "torch_dtype": dtype,
    }
    if head:
        config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": END}))
    write_tokenizer(directory, model.vocab)


def write_tokenizer(directory: Path, vocab: int) -> None:
    """Writes a tokenizer whose words, set apart by blanks, are its ids."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = special + [f"w{i}" for i in range(SPECIAL, vocab)]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i, "content": word, "special": True, "single_word": False, "lstrip": False,
                "rstrip": False, "normalized": False,
            }
            for i, word in enumerate(special)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: i for i, word in enumerate(words)},
            "unk_token": "<unk>",
        },
    }  # fmt: skip
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 2048,
    }
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
