"""What a finished run's held-out answers are worth, one number a prompt."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from alignax.compare.cost import costs
from alignax.config import Data
from alignax.core.records import Preference, Text
from alignax.data import json_lines
from alignax.data.convert import Pairing
from alignax.data.sources import load_records
from alignax.generate.rewards import Reward, Rewards
from alignax.run import Run

ROWS = 2_000  # of the data set, whose labels are compared with the gold reward
DIGITS = 5  # of what is written; the answers themselves are few


def rows(run: Run, rewards: Mapping[str, Reward]) -> list[dict[str, Any]]:
    """One row for each update at which prompts were answered, the first before any.

    Args:
        run: finished, with its files as training left them.
        rewards: known and learnt ones by name: the columns of `prompts`.

    Returns:
        `step`, `prompts` (by name a number a prompt: the mean over its answers), `diversity`,
        `cost`, and the first answer to each prompt: `texts`, `text_gold`, `text_proxy`.
    """
    output, spent = Path(run.experiment.output_dir), costs(run)
    asked = run.prompts("answered").texts
    found = []
    for path in sorted(output.glob("samples-*.jsonl"), key=_step):
        answers = json_lines.read(path)
        texts = [row["completions"] for row in answers]
        each = {name: scored(reward, asked, texts) for name, reward in rewards.items()}
        columns = {name: x.mean(axis=1) for name, x in each.items()}
        for name in ("kl", "length", "ended"):
            # Before the first update policy and reference are one, and nothing was computed.
            numbers = [row.get(name, [0.0]) for row in answers]
            # A null, for what is not finite, is NaN here.
            columns[name] = np.array([np.mean(np.array(x, np.float64)) for x in numbers])
        cost = spent.get(_step(path))
        found.append(
            {
                "step": _step(path),
                "prompts": {n: np.round(x, DIGITS).tolist() for n, x in columns.items()},
                "diversity": round(distinct([text for row in texts for text in row]), DIGITS),
                "cost": None if cost is None else cost._asdict(),
                "texts": [row[0] for row in texts],
                "text_gold": each["gold"][:, 0].round(DIGITS).tolist(),
                "text_proxy": each["proxy"][:, 0].round(DIGITS).tolist(),
            }
        )
    return found


def labels(data: Data, gold: Reward) -> dict[str, int]:
    """Of the data set's pairs that the gold reward tells apart: how many, and how many of them are
    labelled against it; of all pairs, and of those (`own_`) that methods of pairs learn from. The
    first `ROWS` rows are looked at."""
    return _labels(data, gold, "all") | {
        f"own_{name}": x for name, x in _labels(data, gold, data.pairing).items()
    }


def _labels(data: Data, gold: Reward, pairing: Pairing) -> dict[str, int]:
    records, _ = load_records(
        data.train, Preference, split=data.train_split, pairing=pairing, limit=ROWS
    )
    pairs = [cast(Preference, record) for record in records]
    both = [[_words(x.chosen), _words(x.rejected)] for x in pairs]
    known = scored(gold, [pair.prompt for pair in pairs], both)
    margins = known[:, 0] - known[:, 1]
    return {"told_apart": int((margins != 0).sum()), "wrong": int((margins < 0).sum())}


def scored(reward: Reward, prompts: Sequence[Text], texts: Sequence[Sequence[str]]) -> np.ndarray:
    """The reward of each of the k answers to n prompts, [n, k].

    Raises:
        BadInput: an answer that the reward cannot judge.
    """
    k = len(texts[0])
    flat = [text for row in texts for text in row]
    repeated = [prompt for prompt in prompts for _ in range(k)]
    found = Rewards(parts=(reward,)).score(
        repeated, flat, completion_ids=[[] for _ in flat], columns={}
    )
    return np.asarray(found.total, np.float64).reshape(-1, k)


def _words(text: Text) -> str:
    return text if isinstance(text, str) else text[-1].content


def distinct(texts: Sequence[str]) -> float:
    """Different pairs of neighbouring words over all such pairs of the texts (Li et al. 2016,
    arXiv:1510.03055, distinct-2); comparable only between as many texts of like lengths.

    Example:
        >>> distinct(["a b a b", "a b"])
        0.5
    """
    pairs = [pair for text in texts for pair in zip(*_shifted(text.split()), strict=False)]
    return len(set(pairs)) / max(len(pairs), 1)


def _shifted(words: list[str]) -> tuple[list[str], list[str]]:
    return words, words[1:]


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("samples-"))
