"""Files of what rounds learn from, because it cannot be drawn again once the policy has moved.

A file lies beside the checkpoints, and holds the groups of a round and those of earlier ones that
are met again. It may have been changed since: what is read of it is checked.
"""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alignax.core.errors import BadInput
from alignax.core.method import Method
from alignax.data.bad_rows import Tally
from alignax.data.tokenise import Example
from alignax.generate.kept import PER_TOKEN, Kept, responses_of_a_group
from alignax.generate.rollout import Rollout

_DAMAGED = (OSError, ValueError, EOFError, KeyError, TypeError, IndexError, MemoryError,
            RuntimeError, zipfile.BadZipFile, zlib.error)  # fmt: skip


def met_again(
    method: Method, settings: Rollout, *, groups: int, num_steps: int, prompts: int, longest: int
) -> tuple[int, int]:
    """How many groups of earlier rounds a run comes to hold, at most, and about their bytes.

    Bytes of their arrays, as in the file beside each checkpoint; in memory numbers are there twice.

    Args:
        groups: that a round keeps. num_steps: updates of the run.
        prompts: how many there are. longest: tokens of the longest.
    """
    sampling, needs = settings.sampling(method), method.needs()
    if sampling.replay == "none":
        return 0, 0
    count = groups * max(0, -(-num_steps // sampling.refresh) - 1)
    if sampling.replay == "best":
        count = min(count, prompts)
    sampled = needs.sampling is not None
    numbers = needs.reference + sampled + (sampled and needs.head == "value")
    tokens = settings.max_new_tokens * responses_of_a_group(method, sampling.num_samples)
    # Of a token its id, whether it counts, and the numbers.
    return count, count * (4 * longest + (4 + 1 + 4 * numbers) * tokens)


def store(path: Path, parts: Sequence[Kept]) -> None:
    """Writes what rounds learn from, whole or not at all."""
    arrays: dict[str, np.ndarray] = {}
    for i, kept in enumerate(parts):
        arrays |= {f"{i}/{name}": x for name, x in _flat(kept).items()}
    # Of a name that the same round takes again, should the process be killed here.
    draft = path.with_name(f".{path.name}.tmp")
    with draft.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    draft.replace(path)


def _flat(kept: Kept) -> dict[str, np.ndarray]:
    examples = kept.examples
    joined = lambda name: np.concatenate([getattr(e, name) for e in examples])  # noqa: E731
    found = {
        "prompt": joined("prompt"),
        "prompt_lengths": np.array([len(e.prompt) for e in examples]),
        "responses": joined("responses"),
        "response_lengths": np.stack([e.response_lengths for e in examples]),
        "scores": np.stack([e.scores for e in examples]),
    }
    if examples[0].attributes is not None:
        found["attributes"] = np.stack([e.attributes for e in examples])  # type: ignore[arg-type]
    return found | {name: np.concatenate(x) for name, x in kept.numbers.items()}


def stored(path: Path) -> list[Kept]:
    """What `store` wrote.

    Raises:
        BadInput: the file is gone or damaged.
    """
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            if sum(x.file_size for x in file.zip.infolist()) > path.stat().st_size:
                raise ValueError("arrays that are larger than their file")  # a run packs none
            arrays = {name: file[name] for name in file.files}
        if not all(isinstance(x, np.ndarray) for x in arrays.values()):
            raise ValueError("entries that are no arrays")  # NumPy gives their bytes
        return _parts(arrays)
    # Of the archive, of the arrays in it (one may claim any size), and where some are missing.
    except _DAMAGED as error:
        raise BadInput(
            "the samples of the round that the checkpoint is in the middle of",
            f"{type(error).__name__}: {error}",
            "Put the file back, or delete the newest checkpoint to go on from an earlier one.",
            where=str(path),
        ) from error


def _parts(arrays: dict[str, np.ndarray]) -> list[Kept]:
    parts = []
    while f"{len(parts)}/prompt" in arrays:
        part = {n.split("/")[1]: x for n, x in arrays.items() if n.startswith(f"{len(parts)}/")}
        lengths = part["response_lengths"]
        prompts = np.split(part["prompt"], np.cumsum(part["prompt_lengths"])[:-1])
        ends = np.cumsum(lengths.sum(axis=1))[:-1]
        attributes = part.get("attributes", [None] * len(lengths))
        examples = [
            Example(p, r, n, np.ones(len(r), bool), s, "", a)
            for p, r, n, s, a in zip(prompts, np.split(part["responses"], ends), lengths,
                                     part["scores"], attributes, strict=True)
        ]  # fmt: skip
        numbers = {n: np.split(part[n], ends) for n in PER_TOKEN if n in part}
        parts.append(Kept(examples, numbers, Tally()))
    return parts
