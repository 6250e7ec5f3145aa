"""Logits, log-probs and gradients equal those of transformers and torch (tests/golden)."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from alignax.core.logprobs import token_logprobs
from alignax.models import pretrained
from alignax.models.families import FAMILIES, from_hugging_face, places, tensor_shapes
from alignax.models.transformer import Decoder
from tests.golden.make_family_logits import entries, weights
from tests.golden.make_llama_logits import LENGTH, POSITIONS, PROMPT, tokens
from tests.models.rows import layout

FOLDER = pathlib.Path(__file__).parents[1] / "golden"
LLAMAS, FURTHER = np.load(FOLDER / "llama_logits.npz"), np.load(FOLDER / "family_logits.npz")
GOLDEN = {**LLAMAS, **FURTHER}
CONFIGS = json.loads(str(LLAMAS["configs"])) | json.loads(str(FURTHER["configs"]))
TENSORS = json.loads(str(FURTHER["tensors"]))
RESPONSE = LENGTH - PROMPT

every_case = pytest.mark.parametrize("case", CONFIGS)


def shapes(case):
    """Every tensor that we look for in a checkpoint."""
    return tensor_shapes(from_hugging_face(CONFIGS[case], case), CONFIGS[case]["model_type"])


def test_every_family_has_a_case():
    assert {config["model_type"] for config in CONFIGS.values()} == set(FAMILIES)


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_are_those_that_transformers_saves(case):
    assert shapes(case) == {name: tuple(shape) for name, shape in TENSORS[case].items()}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Loads a case's model from a directory in the public layout, which it writes first."""

    @functools.cache
    def load(case):
        directory = tmp_path_factory.mktemp(case)
        (directory / "config.json").write_text(json.dumps(CONFIGS[case]))
        tensors = {name: weights(case, name, shape) for name, shape in shapes(case).items()}
        save_file(tensors, directory / "model.safetensors")
        return pretrained.load(directory)

    return load


def group_in_a_row():
    """The two sequences as one prompt and two responses, in a row with a few tokens to spare."""
    prompt, *responses = (x.tolist() for x in (tokens()[0, :PROMPT], *tokens()[:, PROMPT:]))
    return layout([[(prompt, responses)]], PROMPT + 2 * RESPONSE + 5)


def located(response, positions):
    """Where the positions of one sequence lie in that row."""
    positions = np.asarray(positions)
    return np.where(positions < PROMPT, positions, positions + response * RESPONSE)


def of_packed_rows(model, params):
    """Logits and log-probabilities of both sequences, from the row that holds them."""
    hidden = model.packed(params, group_in_a_row())[0]
    index = np.stack([located(i, np.arange(LENGTH - 1)) for i in range(2)])
    at = np.stack([located(i, POSITIONS) for i in range(2)])
    target, cap = jnp.asarray(tokens()[:, 1:]), model.config.logits_softcap
    head = model.head(params)
    logprobs = token_logprobs(hidden[index], head, target, softcap=cap, chunk_bytes=4096)
    return model.logits(params, hidden[at]), logprobs


@pytest.fixture(scope="module")
def packed(load):
    """Logits, log-probabilities and gradient of a case, through packed rows; compiled once."""

    @functools.cache
    def packed(case, remat="none"):
        model = Decoder(config=load(case).config, remat=remat)

        def of_responses(params):
            logits, logprobs = of_packed_rows(model, params)
            return logprobs[:, PROMPT - 1 :].sum(), (logits, logprobs)

        gradient, found = jax.jit(jax.grad(of_responses, has_aux=True))(load(case).params)
        return *found, gradient

    return packed


@every_case
def test_packed_rows_give_the_reference_logits(packed, case):
    np.testing.assert_allclose(packed(case)[0], GOLDEN[f"{case}/logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("case", "step"),
    [*((case, 1) for case in CONFIGS), *((case, RESPONSE) for case in ("window", "gemma3"))],
)
def test_prefill_and_extend_give_the_reference_logits(load, case, step):
    model, params = Decoder(config=load(case).config), load(case).params
    prompt = jnp.asarray(np.pad(tokens()[:1, :PROMPT], ((0, 0), (0, 3))))
    prefill = functools.partial(model.prefill, num_responses=2, max_response=RESPONSE)
    last, cache = jax.jit(prefill)(params, prompt, jnp.array([PROMPT]))
    hidden = [jnp.broadcast_to(last[:, None, None], (1, 2, 1, last.shape[-1]))]
    extend = jax.jit(model.extend)
    for start in range(0, RESPONSE, step):
        new = jnp.asarray(tokens()[None, :, PROMPT + start : PROMPT + start + step])
        states, cache = extend(params, cache, new)
        hidden.append(states)
    logits = model.logits(params, jnp.concatenate(hidden, axis=2))[0]
    kept = [i for i, position in enumerate(POSITIONS) if position >= PROMPT - 1]
    found = logits[:, np.array(POSITIONS)[kept] - (PROMPT - 1)]
    np.testing.assert_allclose(found, GOLDEN[f"{case}/logits"][:, kept], atol=1e-4, rtol=0)


@every_case
def test_log_probabilities_are_the_reference_ones(packed, case):
    np.testing.assert_allclose(packed(case)[1], GOLDEN[f"{case}/logprobs"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("case", "remat"),
    [
        *((case, "none") for case in CONFIGS),
        ("window", "attention"),
        ("biases", "block"),
        ("gemma3", "attention"),
        ("mixtral", "block"),
        ("mixtral", "elementwise"),
        ("biases", "elementwise"),
    ],
)
def test_gradients_are_the_reference_ones(load, packed, case, remat):
    found = places(load(case).config, CONFIGS[case]["model_type"])
    gradient = packed(case, remat)[2]
    checked = 0
    for name, tensor in pretrained.tensors(gradient, found):
        expected = GOLDEN.get(f"{case}/gradient/{name}")
        if expected is None:
            continue  # of the Llamas a few are stored, of the others every one in part
        if case in TENSORS:
            flat = np.ravel(tensor)
            tensor = np.append(flat[entries(name, flat.size)], np.linalg.norm(flat))
        # Relative to the largest entry: small ones are differences of large ones.
        np.testing.assert_allclose(
            tensor, expected, atol=1e-5 * np.abs(expected).max(), rtol=1e-4, err_msg=name
        )
        checked += 1
    assert checked == len(TENSORS[case]) if case in TENSORS else checked >= 5


@every_case
def test_bfloat16_errs_as_torch_does(load, case):
    model, params = Decoder(config=load(case).config, dtype="bfloat16"), load(case).params
    found = jax.jit(lambda params: of_packed_rows(model, params)[0])(params)
    error = np.sqrt(np.mean((found - GOLDEN[f"{case}/logits"]) ** 2))
    # Its order of operations is another; by the root mean square the two should be level.
    print(case, error, GOLDEN[f"{case}/bf16_error"])
    assert error < 1.2 * GOLDEN[f"{case}/bf16_error"]
