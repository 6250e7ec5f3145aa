"""A scorer's outputs are transformers' logits, however responses are put into rows and batches."""

import json
import pathlib

import numpy as np
import pytest
from safetensors.numpy import save_file

from alignax.data.chat import Renderer
from alignax.generate import scoring
from alignax.generate.scoring import Scorer, Tokens
from alignax.models.families import from_hugging_face, tensor_shapes
from alignax.models.transformer import Decoder
from tests.golden.make_llama_logits import weights
from tests.golden.make_score_logits import CASES, groups
from tests.tiny import chatml_tokenizer

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "score_logits.npz")


def golden_scorer(case, folder) -> Scorer:
    config = json.loads(str(GOLDEN["configs"]))[case]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    decoder = Decoder(config=from_hugging_face(config, case))
    shapes = tensor_shapes(decoder.config, config["model_type"])
    save_file({n: weights(n, s) for n, s in shapes.items()}, folder / "model.safetensors")
    renderer = Renderer(tokenizer=chatml_tokenizer())
    names = scoring.output_names(folder)
    return Scorer(directory=folder, decoder=decoder, renderer=renderer, names=names)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_outputs_are_transformers_logits_whatever_the_batch(case, batch_size, tmp_path):
    scorer = golden_scorer(case, tmp_path / "model")
    assert len(scorer.names) == CASES[case]["num_labels"]
    expected = GOLDEN[f"{case}/logits"].reshape(2, 2, -1)
    shared = [Tokens(prompt, responses) for prompt, responses in groups()]
    apart = [Tokens(p, [r]) for p, responses in groups() for r in responses]
    for asked, order in ((shared, lambda i, j: (i, j)), (apart, lambda i, _: divmod(i, 2))):
        found = np.full_like(expected, np.nan)
        for i, j, outputs in scorer(asked, batch_size=batch_size):
            found[order(i, j)] = outputs
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_more_responses_than_a_row_holds_go_on_in_another(tmp_path, monkeypatch):
    # Rows of 30 tokens: the first prompt has 7 tokens and responses of 9 and 4, twice: three fit
    # (7 + 9 + 4 + 9), the fourth goes on. Of the second three fit too (12 + 1 + 15 + 1).
    monkeypatch.setattr(scoring, "ROW", 30)
    scorer = golden_scorer("two_tied", tmp_path / "model")
    twice = [Tokens(prompt, [*responses, *responses]) for prompt, responses in groups()]
    rows = list(scoring._rows(twice))
    assert [(row.group, row.responses) for row in rows] == [
        (0, (0, 1, 2)), (0, (3,)), (1, (0, 1, 2)), (1, (3,))
    ]  # fmt: skip
    expected = GOLDEN["two_tied/logits"].reshape(2, 2, -1)
    for i, j, outputs in scorer(twice, batch_size=4):
        np.testing.assert_allclose(outputs, expected[i, j % 2], atol=1e-5, rtol=0)
