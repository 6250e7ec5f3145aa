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
from alignax.models.families import from_hugging_face
from alignax.models.stored import stored
from alignax.models.transformer import Decoder
from tests.golden.make_llama_logits import CASES, LENGTH, POSITIONS, PROMPT, tokens, weights
from tests.models.rows import layout

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "llama_logits.npz")
CONFIGS = json.loads(str(GOLDEN["configs"]))
RESPONSE = LENGTH - PROMPT

every_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Loads a case's model from a directory in the public layout, which it writes first."""

    @functools.cache
    def load(case):
        directory = tmp_path_factory.mktemp(case)
        (directory / "config.json").write_text(json.dumps(CONFIGS[case]))
        tensors = {
            name: weights(name, place.stored_shape)
            for place in stored(from_hugging_face(CONFIGS[case], case))
            for name in place.names
        }
        save_file(tensors, directory / "model.safetensors")
        return pretrained.load(directory)

    return load


def group_in_a_row():
    """The two sequences as one prompt and two responses, in a row with a few tokens to spare."""
    prompt, *responses = (x.tolist() for x in (tokens()[0, :PROMPT], *tokens()[:, PROMPT:]))
    return layout([[(prompt, responses)]], PROMPT + 2 * RESPONSE + 5)


def packed_logits(model, params):
    run = jax.jit(lambda params, rows: model.logits(params, model.packed(params, rows)))
    return run(params, group_in_a_row())[0]


def places(response, positions):
    """Where the positions of one sequence lie in that row."""
    positions = np.asarray(positions)
    return np.where(positions < PROMPT, positions, positions + response * RESPONSE)


@every_case
def test_packed_rows_give_the_reference_logits(load, case):
    model, params = Decoder(config=load(case).config), load(case).params
    logits = packed_logits(model, params)
    for i in range(2):
        expected = GOLDEN[f"{case}/logits"][i]
        np.testing.assert_allclose(logits[places(i, POSITIONS)], expected, atol=1e-4, rtol=0)


@every_case
@pytest.mark.parametrize("step", [1, RESPONSE], ids=["token by token", "at once"])
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


def logprobs_of_sequences(model, params):
    hidden = model.packed(params, group_in_a_row())[0]
    index = np.stack([places(i, np.arange(LENGTH - 1)) for i in range(2)])
    target = jnp.asarray(tokens()[:, 1:])
    return token_logprobs(hidden[index], model.head(params), target, chunk_bytes=4096)


@every_case
def test_log_probabilities_are_the_reference_ones(load, case):
    model = Decoder(config=load(case).config)
    logprobs = jax.jit(functools.partial(logprobs_of_sequences, model))(load(case).params)
    np.testing.assert_allclose(logprobs, GOLDEN[f"{case}/logprobs"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("case", "remat"),
    [*((case, "none") for case in CASES), ("window", "attention"), ("biases", "block")],
)
def test_gradients_are_the_reference_ones(load, case, remat):
    model = Decoder(config=load(case).config, remat=remat)

    @jax.jit
    @jax.grad
    def gradient_of_responses(params):
        return logprobs_of_sequences(model, params)[:, PROMPT - 1 :].sum()

    gradient = gradient_of_responses(load(case).params)
    checked = 0
    for place in stored(model.config):
        found = functools.reduce(lambda tree, name: tree[name], place.path, gradient)
        for name, layer in zip(place.names, found if place.stacked else [found], strict=True):
            if f"{case}/gradient/{name}" in GOLDEN:
                expected = GOLDEN[f"{case}/gradient/{name}"]
                # Relative to the largest entry: small ones are differences of large ones.
                np.testing.assert_allclose(
                    place.to_stored(np.asarray(layer)),
                    expected,
                    atol=1e-5 * np.abs(expected).max(),
                    rtol=1e-4,
                    err_msg=name,
                )
                checked += 1
    assert checked >= 5


@every_case
def test_bfloat16_errs_as_torch_does(load, case):
    model, params = Decoder(config=load(case).config, dtype="bfloat16"), load(case).params
    logits = packed_logits(model, params)
    found = np.stack([logits[places(i, POSITIONS)] for i in range(2)])
    error = np.sqrt(np.mean((found - GOLDEN[f"{case}/logits"]) ** 2))
    # Its order of operations is another; by the root mean square the two should be level.
    print(case, error, GOLDEN[f"{case}/bf16_error"])
    assert error < 1.2 * GOLDEN[f"{case}/bf16_error"]
