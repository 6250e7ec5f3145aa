"""SteerLM's step 4 in the world of the comparison: the trained model's own answers, rated anew.

Every training prompt is asked for the best rating of each part and answered from the 50 most
probable tokens (Dong et al. 2023, arXiv:2310.05344, section 3.4). The answers are rated for what
they are, by the judge that rated the data, noise and all: what missed what was asked for becomes
an example of what it is.
"""

from collections.abc import Iterator
from typing import Any

import jax
import make_data
import numpy as np

from alignax import Sampler
from alignax.data.prompts import load_prompts
from alignax.generate.engine import Engine
from alignax.run import Run


def rows(run: Run) -> Iterator[dict[str, Any]]:
    """A row for each answer, as `attributes.jsonl.gz` has them."""
    room = run.decoder.config.max_positions - make_data.MAX_NEW_TOKENS
    found = load_prompts(
        run.experiment.data.train, run.renderer, ask=run.method.ask, max_length=room
    )
    # Each stands there as often as it has answers.
    asked = dict(zip(map(str, found.texts), found.ids, strict=True))
    sampler = Sampler(
        num_samples=make_data.ANSWERS, max_new_tokens=make_data.MAX_NEW_TOKENS,
        temperature=1.0, top_k=50,
    )  # fmt: skip
    engine = Engine(model=run.decoder, sampler=sampler, end_ids=tuple(sorted(run.renderer.end_ids)),
                    slots=256, fitted=False)  # fmt: skip
    seed = run.experiment.seed
    with jax.set_mesh(run.mesh):
        key = jax.random.key(seed)
        drawn = engine(run.initial_policy(), key, list(asked.values()), range(len(asked)))
    generator = np.random.default_rng(seed)
    for prompt, answers, lengths in zip(asked, drawn.tokens, drawn.lengths, strict=True):
        own = [x[:n].tolist() for x, n in zip(answers, lengths, strict=True)]
        for text in filter(str.strip, run.decode_all(own)):  # an empty one says nothing
            yield make_data.rated(prompt, text, generator)
