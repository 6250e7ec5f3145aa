"""Makes score_logits.npz: what transformers' own sequence classifiers say of padded batches.

    python -m tests.golden.make_score_logits

Needs torch and transformers, which nothing else here does; their versions are stored inside.
Weights are not stored: both sides make them by `make_family_logits.weights`, from the name of each
tensor. For every case, a batch of all prompts with all their responses, padded on the right:

    {case}/logits  [prompts * responses, labels], float32
    {case}/names   of the tensors, as save_pretrained writes them
    configs        {case: config.json}, likewise
"""

import json
from pathlib import Path

import numpy as np

from tests.golden.make_family_logits import CASES as FAMILIES
from tests.golden.make_family_logits import weights
from tests.golden.make_llama_logits import CASES as LLAMAS
from tests.golden.make_llama_logits import VOCAB

PAD = 0
PROMPTS = (7, 12)
RESPONSES = ((9, 4), (1, 15))  # tokens of the two responses to each prompt
CASES = {
    "one": LLAMAS["untied"] | {"num_labels": 1},
    "two_tied": LLAMAS["grouped_tied"] | {"num_labels": 2},
    "five_window": LLAMAS["window"] | {"num_labels": 5},
}
# What leads to the head is held by family_logits.npz: here a few layers serve.
_SHORT = {"num_hidden_layers": 2, "num_labels": 2}
OF_FAMILIES = {
    "qwen2": FAMILIES["qwen2"] | _SHORT,
    "qwen3": FAMILIES["qwen3"] | _SHORT,
    "qwen3_moe": FAMILIES["qwen3_moe"] | _SHORT,
    "smollm3": FAMILIES["smollm3"] | _SHORT | {"num_hidden_layers": 4},
    "gemma2": FAMILIES["gemma2"] | _SHORT,
    "gemma3": FAMILIES["gemma3"]
    | _SHORT
    | {"layer_types": ["sliding_attention", "full_attention"]},
    "phi3": FAMILIES["phi3"] | _SHORT,
    "olmo2": FAMILIES["olmo2"] | _SHORT,
    "mixtral": FAMILIES["mixtral"] | _SHORT,
    "gpt2": FAMILIES["gpt2"] | {"n_layer": 2, "num_labels": 2},
    "neox": FAMILIES["neox"] | _SHORT,
}


def groups() -> list[tuple[list[int], list[list[int]]]]:
    """Prompts of token ids and the responses to each; the padding's id is nowhere in them."""
    draw = np.random.default_rng(0)

    def some(length: int) -> list[int]:
        return draw.integers(PAD + 1, VOCAB, length).tolist()

    return [(some(p), [some(r) for r in rs]) for p, rs in zip(PROMPTS, RESPONSES, strict=True)]


def padded() -> np.ndarray:
    """[prompts * responses, t]: every prompt with each of its responses."""
    sequences = [prompt + response for prompt, responses in groups() for response in responses]
    batch = np.full((len(sequences), max(map(len, sequences))), PAD)
    for row, sequence in zip(batch, sequences, strict=True):
        row[: len(sequence)] = sequence
    return batch


def logits(directory: Path) -> np.ndarray:
    """What transformers' classifier in a directory says of the batch; nothing may be missing."""
    import torch
    import transformers

    make = transformers.AutoModelForSequenceClassification
    model, about = make.from_pretrained(
        directory, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    wrong = {kind: list(names) for kind, names in about.items() if names}
    assert not wrong, (directory, wrong)
    tokens = torch.tensor(padded())
    with torch.no_grad():
        return model.eval()(tokens, attention_mask=(tokens != PAD).int()).logits.numpy()


def main() -> None:
    import tempfile

    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    stored = {"versions": f"torch {torch.__version__}, transformers {transformers.__version__}"}
    configs = {}
    for case, settings in (CASES | OF_FAMILIES).items():
        settings = settings | {"pad_token_id": PAD}
        config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
        make = transformers.AutoModelForSequenceClassification
        with tempfile.TemporaryDirectory() as directory:
            # By way of a file, so that what is fused in memory and not in the file is no concern.
            make.from_config(config).save_pretrained(directory)
            path = Path(directory) / "model.safetensors"
            shapes = {name: tuple(tensor.shape) for name, tensor in load_file(path).items()}
            made = {name: torch.tensor(weights(case, name, s)) for name, s in shapes.items()}
            save_file(made, path, metadata={"format": "pt"})
            configs[case] = json.loads((Path(directory) / "config.json").read_text())
            stored[f"{case}/logits"] = logits(Path(directory))
        stored[f"{case}/names"] = sorted(shapes)
        print(case, configs[case]["architectures"], stored[f"{case}/logits"].ravel())
    stored["configs"] = json.dumps(configs)
    np.savez_compressed(Path(__file__).with_name("score_logits.npz"), **stored)


if __name__ == "__main__":
    main()
