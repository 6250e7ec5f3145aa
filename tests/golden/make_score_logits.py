"""Makes score_logits.npz: what transformers' own sequence classifiers say of padded batches.

    python -m tests.golden.make_score_logits

Needs torch and transformers, which nothing else here does; their versions are stored inside.
Weights are not stored: both sides make them by `make_llama_logits.weights`, from the name of each
tensor. For every case, a batch of all prompts with all their responses, padded on the right:

    {case}/logits  [prompts * responses, labels], float32
    {case}/names   of the model's tensors
    configs        as transformers wrote them
"""

import json
from pathlib import Path

import numpy as np

from tests.golden.make_llama_logits import CASES as LANGUAGE_MODELS
from tests.golden.make_llama_logits import VOCAB, weights

PAD = 0
PROMPTS = (7, 12)
RESPONSES = ((9, 4), (1, 15))  # tokens of the two responses to each prompt
CASES = {
    "one": LANGUAGE_MODELS["untied"] | {"num_labels": 1},
    "two_tied": LANGUAGE_MODELS["grouped_tied"] | {"num_labels": 2},
    "five_window": LANGUAGE_MODELS["window"] | {"num_labels": 5},
}


def groups() -> list[tuple[list[int], list[list[int]]]]:
    """Prompts of token ids and the responses to each; the padding's id is nowhere in them."""
    draw = np.random.default_rng(0)

    def some(length: int) -> list[int]:
        return draw.integers(PAD + 1, VOCAB, length).tolist()

    return [(some(p), [some(r) for r in rs]) for p, rs in zip(PROMPTS, RESPONSES, strict=True)]


def main() -> None:
    import torch
    import transformers

    sequences = [prompt + response for prompt, responses in groups() for response in responses]
    batch = np.full((len(sequences), max(map(len, sequences))), PAD)
    for row, sequence in zip(batch, sequences, strict=True):
        row[: len(sequence)] = sequence
    stored = {"versions": f"torch {torch.__version__}, transformers {transformers.__version__}"}
    configs = {}
    for case, settings in CASES.items():
        settings = settings | {"pad_token_id": PAD}
        config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
        make = transformers.AutoModelForSequenceClassification.from_config
        model = make(config, attn_implementation="eager")
        config.architectures = [type(model).__name__]
        configs[case] = config.to_dict()
        for name, parameter in model.named_parameters():
            parameter.data = torch.tensor(weights(name, tuple(parameter.shape)))
        with torch.no_grad():
            tokens = torch.tensor(batch)
            logits = model(tokens, attention_mask=(tokens != PAD).int()).logits
        stored[f"{case}/logits"] = logits.numpy()
        stored[f"{case}/names"] = sorted(model.state_dict())
    stored["configs"] = json.dumps(configs)
    np.savez_compressed(Path(__file__).with_name("score_logits.npz"), **stored)


if __name__ == "__main__":
    main()
