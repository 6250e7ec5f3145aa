"""Scoring data with a reward model or a function: a column of scores beside every row.

It is how responses get the scores that offline methods learn from, and SteerLM's second step.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32
from rich.markup import escape

from alignax.core.errors import BadInput
from alignax.core.records import Group
from alignax.core.telling import through
from alignax.data.bad_rows import BadRow, OnBadRow, Tally
from alignax.data.catalogues import Row
from alignax.data.json_lines import check_json, written
from alignax.data.preflight import check_vocabulary
from alignax.data.responses import LISTS, TEXTS, last_answer, to_judge
from alignax.data.sources import read_rows
from alignax.data.tokenise import Example, TokenLimits, tokenise
from alignax.generate.reward_functions import Function
from alignax.generate.rewards import Rewards
from alignax.generate.scoring import Scorer, Tokens, classifier, load_scorer
from alignax.run import console


def score(
    directory: str | Path,
    source: str,
    target: str | Path,
    *,
    split: str = "train",
    batch_size: int = 16,
    max_length: int | None = None,
    template: Literal["chat", "none"] = "chat",
    chat_template: str | None = None,
    whole_numbers: bool = False,
    on_bad_row: OnBadRow = "refuse",
    quiet: bool = False,
) -> Path:
    """Writes the rows of a source again, as JSON lines, with what a reward model gives them.

    A single response gets `score`; a model of several attributes gives it `attributes`. A list
    of one or more gets `scores`, a pair `score_chosen` and `score_rejected`. Rows that are too
    long are left out and counted.

    Args:
        directory: a sequence classifier, ours or another of a family that alignax computes.
        source: a path, `tfds:NAME` or `hf:owner/name`.
        target: the file to write; it may not be there yet, its folder must.
        batch_size: rows of tokens at a time; a row holds a prompt and its responses.
        max_length: of prompt and response, in tokens; the model's where None.
        template, chat_template: as in `config.Data`.
        whole_numbers: round, as SteerLM's attributes are, within what the model was taught.
        on_bad_row: whether a row with a defect stops the work, or is left out and counted.

    Raises:
        BadInput: no reward model, a number that is not positive, rows that hold no responses,
            tokens that the model has no embedding for, a file that is there already or cannot be
            written, a column that JSON cannot hold, or a score that is not finite.
    """
    for name, value in (("--batch-size", batch_size), ("--max-length", max_length)):
        if value is not None and value <= 0:
            raise BadInput("a positive number", repr(value), "Change it.", where=name)
    config, target = classifier(directory), Path(target)
    read, dropped = _read(source, split, on_bad_row, chat=template == "chat")
    rows, groups = {group.origin: row for row, group in read}, [group for _, group in read]
    several = next((group for group in groups if len(group.responses) > 1), None)
    if config.num_scores > 1 and several is not None:
        raise BadInput(
            "single responses, for a model of several attributes",
            f"{len(several.responses)} to a prompt",
            "Give rows with prompt and completion.",
            where=several.origin,
        )
    scorer = load_scorer(directory, template=template, chat_template=chat_template)
    limits = TokenLimits(max_length=max_length or config.max_positions)
    examples, report = tokenise(groups, scorer.renderer, limits, on_bad_row=on_bad_row, empty=True)
    if not quiet:
        console.print(f"[bold]{escape(source)}[/] ({escape(split)}): {escape(str(report))}")
        _say_dropped(dropped)
    if not examples:
        raise BadInput("at least one row within the limits", "none", "Raise --max-length.",
                       where=source)  # fmt: skip
    check_vocabulary(examples, scorer.renderer, vocab_size=config.vocab_size)
    with written(target) as lines:
        found = _scores(scorer, examples, batch_size, quiet)
        for example, numbers in zip(examples, found, strict=True):
            if not np.isfinite(numbers).all():
                got = str(np.ravel(numbers).tolist())
                raise BadInput("finite scores", got, "Look at the model's weights.",
                               where=example.origin)  # fmt: skip
            rounded = numbers.astype(np.float64).round(6)
            numbers = scorer.ratings(numbers) if whole_numbers else rounded
            row = rows[example.origin]
            lines.write(row | _columns(row, numbers, scorer.names))
    if not quiet:
        for name, x in zip(scorer.names, np.concatenate(found).T, strict=True):
            said = f"mean {x.mean():.4f}, deviation {x.std():.4f}, n {len(x):,}"
            console.print(f"{escape(name)}: {said}")
        console.print(f"[bold]written[/]: {escape(str(target))}, {len(examples):,} rows")
    return target


def score_by(
    function: str,
    source: str,
    target: str | Path,
    *,
    split: str = "train",
    on_bad_row: OnBadRow = "refuse",
    quiet: bool = False,
) -> Path:
    """Writes the rows of a source again, as JSON lines, with what a Python function gives them.

    Of a conversation it judges the last answer, and takes what comes before for the prompt.

    Args:
        function: `path/to/file.py:name` or `package.module:name`, as
            `generate.reward_functions.Function` has it.
        source: a path, `tfds:NAME` or `hf:owner/name`.
        target: the file to write; it may not be there yet, its folder must.
        on_bad_row: as in `score`; a row is defective too where the function gives one of its
            responses no finite number.

    Raises:
        BadInput: no such function, a number that is none, a file that is there already or cannot
            be written, or a column that JSON cannot hold.
    """
    on_bad = "mask" if on_bad_row == "drop" else "refuse"
    rewards = Rewards(parts=(Function(function=function),), on_bad=on_bad)
    target = Path(target)
    rewards.check()
    read, dropped = _read(source, split, on_bad_row)
    rows, groups = [row for row, _ in read], [group for _, group in read]
    repeated = [i for i, group in enumerate(groups) for _ in group.responses]
    asked = [last_answer(group.prompt, one) for group in groups for one in group.responses]
    columns = dict.fromkeys(name for row in rows for name in row if name not in _NO_COLUMNS)
    with written(target) as lines:
        scored = rewards.score(
            [prompt for prompt, _ in asked],
            [text for _, text in asked],
            completion_ids=[[] for _ in asked],
            columns={name: [rows[i].get(name) for i in repeated] for name in columns},
        )
        ends = np.cumsum([len(group.responses) for group in groups])[:-1]
        numbers, good = np.split(scored.total, ends), np.split(scored.good, ends)
        if not any(map(np.all, good)):
            raise BadInput("a row whose responses all have a number", f"none: {scored.bad}",
                           "Mend the function.", where=function)  # fmt: skip
        for row, group, x, whole in zip(rows, groups, numbers, good, strict=True):
            if not whole.all():
                dropped.add(f"no number from {rewards.names[0]}", group.origin)
                continue
            x = x[:, None].astype(np.float64).round(6)
            lines.write(row | _columns(row, x, rewards.names))
    if not quiet:
        total, name = scored.total[scored.good], escape(rewards.names[0])
        console.print(f"{name}: mean {total.mean():.4f}, deviation {total.std():.4f}, "
                      f"n {len(total):,}")  # fmt: skip
        _say_dropped(dropped)
        written_rows = sum(bool(whole.all()) for whole in good)
        console.print(f"[bold]written[/]: {escape(str(target))}, {written_rows:,} rows")
    return target


_NO_COLUMNS = ("prompt", *TEXTS)  # what a function is given under other names


def _read(
    source: str, split: str, on_bad_row: OnBadRow, *, chat: bool = False
) -> tuple[list[tuple[Row, Group]], Tally]:
    """The rows with their responses, and the count of those that cannot be judged."""
    read, dropped = [], Tally()
    for row, origin in read_rows(source, split=split):
        check_json(row, origin)
        try:
            read.append((row, to_judge(row, origin, chat=chat)))
        except BadRow as defect:
            if on_bad_row == "refuse":
                raise
            dropped.add(defect.reason, origin)
    if not read:
        raise BadInput(
            "at least one usable row",
            f"none; dropped: {dropped}" if dropped else "no rows",
            "Give a source with data, or another split.",
            where=f"{source} ({split})",
        )
    return read, dropped


def _say_dropped(dropped: Tally) -> None:
    if dropped:
        console.print(f"rows dropped: {escape(str(dropped))}")


def _columns(row: dict[str, Any], numbers: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """What is added to a row: `numbers` has a row for each response, a column for each output."""
    if numbers.shape[1] > 1:
        return {"attributes": dict(zip(names, numbers[0].tolist(), strict=True))}
    scores = numbers[:, 0].tolist()
    if "prompt" in row and any(isinstance(row.get(name), list) for name in LISTS):
        return {"scores": scores}
    if "rejected" in row:
        return {"score_chosen": scores[0], "score_rejected": scores[1]}
    return {"score": scores[0]}


def _scores(
    scorer: Scorer, examples: Sequence[Example], batch_size: int, quiet: bool
) -> list[Float32[np.ndarray, "k c"]]:
    """The outputs for each example, in order."""
    groups = [
        Tokens(example.prompt.tolist(), [ids.tolist() for ids, _ in example.split()])
        for example in examples
    ]
    made = [np.zeros((len(group.responses), len(scorer.names)), np.float32) for group in groups]
    steps = scorer(groups, batch_size=batch_size)
    if not quiet:
        total = sum(len(group.responses) for group in groups)
        steps = through(steps, total, "score", console)
    for index, response, numbers in steps:
        made[index][response] = numbers
    return made
