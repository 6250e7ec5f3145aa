"""Makes score_logits.json: what transformers' sequence classifiers compute for tiny models.

    python -m tests.golden.make_score_logits DIRECTORY

Needs torch and transformers, which nothing else here does; their versions are stored inside. With
DIRECTORY, a reward model that `alignax.models.pretrained.save` wrote, it also says whether
transformers finds every tensor that it wants there and no other. Weights are made by
`make_llama_logits.weights` from the name of each tensor.

For every case: `logits` [2, labels] of two sequences in one batch, the second one 10 tokens
shorter and padded on the right; the score is read at the last token that is not padding.
"""

import json
import sys
from pathlib import Path

from tests.golden.make_llama_logits import _BASE, LENGTH, tokens, weights

PAD, SHORTER = 0, 10
CASES = {
    "one_score": _BASE | {"pad_token_id": PAD, "num_labels": 1, "tie_word_embeddings": True},
    "three_scores": _BASE | {"pad_token_id": PAD, "num_labels": 3},
    "mistral": _BASE
    | {"pad_token_id": PAD, "num_labels": 2, "model_type": "mistral", "sliding_window": 9},
}


def sequences():
    """The two sequences, without the padding's id inside."""
    ids = tokens()
    ids[ids == PAD] = 1
    return [ids[0], ids[1, : LENGTH - SHORTER]]


def main() -> None:
    import torch
    import transformers

    stored = {"versions": f"torch {torch.__version__}, transformers {transformers.__version__}"}
    for case, settings in CASES.items():
        settings = dict(settings)
        config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
        model = transformers.AutoModelForSequenceClassification.from_config(
            config, attn_implementation="eager"
        )
        for name, parameter in model.named_parameters():
            parameter.data = torch.tensor(weights(name, tuple(parameter.shape)))
        batch = torch.full((2, LENGTH), PAD)
        for row, ids in zip(batch, sequences(), strict=True):
            row[: len(ids)] = torch.tensor(ids)
        with torch.no_grad():
            logits = model(batch, attention_mask=batch != PAD).logits
        settings = config.to_dict() | {"architectures": [type(model).__name__]}
        stored[case] = {"config": settings, "logits": logits.tolist()}
    path = Path(__file__).with_name("score_logits.json")
    path.write_text(json.dumps(stored, indent=1) + "\n")
    for directory in sys.argv[1:]:
        model, found = transformers.AutoModelForSequenceClassification.from_pretrained(
            directory, output_loading_info=True
        )
        ids = torch.tensor([[5, 9, 20, 2]])
        print({k: v for k, v in found.items() if v}, model.config.id2label)
        print(model(ids).logits.tolist())


if __name__ == "__main__":
    main()
