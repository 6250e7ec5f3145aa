"""What a finished run's held-out answers are worth, one number a prompt."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from alignax.compare.cost import costs
from alignax.compare.settings import Comparison
from alignax.config import Data
from alignax.core.errors import BadInput
from alignax.core.records import Preference, Prompt, Text
from alignax.data import json_lines
from alignax.data.bad_rows import BadRow, OnBadRow
from alignax.data.columns import renamed
from alignax.data.convert import Pairing
from alignax.data.responses import check_words
from alignax.data.sources import load_records, read_rows
from alignax.generate.rewards import Reward, Rewards
from alignax.run import Run

log = logging.getLogger("alignax")
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
    asked = run.prompts("answered")
    found = []
    for path in sorted(output.glob("samples-*.jsonl"), key=_step):
        answers = json_lines.read(path)
        texts = [row["completions"] for row in answers]
        each = {
            name: scored(reward, asked.texts, texts, asked.columns)
            for name, reward in rewards.items()
        }
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
    first `ROWS` rows are looked at.

    Raises:
        BadInput: a response that the reward cannot judge, for want of a column perhaps.
    """
    return _labels(data, gold, "all") | {
        f"own_{name}": x for name, x in _labels(data, gold, data.pairing).items()
    }


def check(comparison: Comparison) -> None:
    """Refuses known rewards that fail at the first row of what they are to judge: prompts without
    a column that they read, before anything is trained.

    Raises:
        BadInput: naming the file and the reward.
    """
    data = comparison.base.data
    pairs, columns = _pairs(data, data.pairing)
    first = {data.train: (pairs[0].prompt, {n: x[:1] for n, x in columns.items()})}
    for file in (comparison.tune, comparison.test):
        found, _ = load_records(file, Prompt, split=data.eval_split, on_bad_row=data.on_bad_row,
                                limit=ROWS, chat=data.template == "chat")  # fmt: skip
        prompt = cast(Prompt, found[0])
        first[file] = prompt.prompt, {name: [x] for name, x in prompt.columns.items()}
    for reward in (comparison.gold, *comparison.measures.values()):
        for file, (prompt, row) in first.items():
            if file == data.train and reward is not comparison.gold:
                continue  # of the data set's pairs the gold reward alone judges the labels
            try:
                scored(reward, [prompt], [[_words(pairs[0].chosen)]], row)
            except BadInput as why:
                raise BadInput(why.expected, why.got, why.remedy, where=f"{file}: {why.where}") \
                    from why  # fmt: skip


def _labels(data: Data, gold: Reward, pairing: Pairing) -> dict[str, int]:
    pairs, columns = _pairs(data, pairing)
    both = [[_words(x.chosen), _words(x.rejected)] for x in pairs]
    known = scored(gold, [pair.prompt for pair in pairs], both, columns)
    margins = known[:, 0] - known[:, 1]
    return {"told_apart": int((margins != 0).sum()), "wrong": int((margins < 0).sum())}


def scored(
    reward: Reward,
    prompts: Sequence[Text],
    texts: Sequence[Sequence[str]],
    columns: Mapping[str, Sequence[Any]],
) -> np.ndarray:
    """The reward of each of the k answers to n prompts, [n, k].

    Args:
        columns: the other columns of the prompts' rows, one entry a prompt.

    Raises:
        BadInput: an answer that the reward cannot judge.
    """
    k = len(texts[0])
    flat = [text for row in texts for text in row]
    repeated = [i for i in range(len(prompts)) for _ in range(k)]
    try:
        found = Rewards(parts=(reward,)).score(
            [prompts[i] for i in repeated],
            flat,
            completion_ids=None,
            columns={name: [x[i] for i in repeated] for name, x in columns.items()},
        )
    except BadInput as why:
        if "on_bad" not in why.remedy:
            raise
        remedy = "Mend the reward: a comparison leaves no answer out."
        raise BadInput(why.expected, why.got, remedy, where=why.where) from why
    return np.asarray(found.total, np.float64).reshape(-1, k)


def _pairs(data: Data, pairing: Pairing) -> tuple[list[Preference], dict[str, list[Any]]]:
    """The first pairs of a data set, and the other columns of their rows, one entry a pair."""
    records, _ = load_records(
        str(data.train), Preference, split=data.train_split, on_bad_row=data.on_bad_row,
        pairing=pairing, strength=data.strength, limit=ROWS, chat=data.template == "chat",
        columns=data.columns,
    )  # fmt: skip
    records = [x for x in cast(list[Preference], records) if _is_all_words(x, data.on_bad_row)]
    read, kept = read_rows(str(data.train), split=data.train_split), {x.origin for x in records}
    rows = {
        origin: renamed(row, data.columns, origin)
        for row, origin in itertools.islice(read, ROWS)
        if origin in kept
    }
    names = dict.fromkeys(name for row in rows.values() for name in row if name != "prompt")
    columns = {name: [rows[x.origin].get(name) for x in records] for name in names}
    return [cast(Preference, x) for x in records], columns


def _is_all_words(pair: Preference, on_bad_row: OnBadRow) -> bool:
    try:
        check_words((pair.chosen, pair.rejected), pair.origin)
    except BadRow as defect:
        if on_bad_row == "refuse":
            raise
        log.warning("left out of the proxy's agreement with the pairs: %s", defect)
        return False
    return True


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
