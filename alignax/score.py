"""Scoring data with a reward model or a function: a column of scores beside every row.

It is how responses get the scores that offline methods learn from, and SteerLM's second step.
"""

import collections
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32
from rich.markup import escape

from alignax.core.errors import BadInput
from alignax.core.records import Group
from alignax.core.telling import through
from alignax.data.bad_rows import BadRow, OnBadRow, Tally
from alignax.data.catalogues import Row
from alignax.data.json_lines import check_json, written
from alignax.data.preflight import check_vocabulary
from alignax.data.responses import LISTS, TEXTS, check_words, last_answer, to_judge
from alignax.data.sources import read_rows
from alignax.data.tokenise import Example, TokenLimits, tokenise
from alignax.generate.reward_functions import Function
from alignax.generate.rewards import Rewards
from alignax.generate.scoring import Scorer, Tokens, classifier, load_scorer
from alignax.models import pretrained
from alignax.run import console

PORTION = 1024  # rows of a source that a model scores before they are written
ASKED = 128  # and a function, which may be a judge that is asked over a network


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
    of one or more gets `scores`, a pair `score_chosen` and `score_rejected`. Columns of these
    names that a row had are replaced, and counted. Rows that are too long are left out and counted.
    Rows are written by portions: where the work is stopped, the same call goes on behind them.

    Args:
        directory: a sequence classifier, ours or another of a family that alignax computes.
        source: a path, `tfds:NAME` or `hf:owner/name`.
        target: the file to write; it may not be there yet, its folder must.
        batch_size: rows of tokens at a time; a row holds a prompt and its responses.
        max_length: of prompt and response, in tokens, at most the model's; that where None.
        template, chat_template: as in `config.Data`.
        whole_numbers: round, as SteerLM's attributes are, within what the model was taught.
        on_bad_row: whether a row with a defect stops the work, or is left out and counted.

    Raises:
        BadInput: no reward model, a number that is not positive or too high, rows that hold no
            responses, tokens that the model has no embedding for, a file that is there already or
            cannot be written, a column that JSON cannot hold, or a score that is not finite.
    """
    for name, value in (("--batch-size", batch_size), ("--max-length", max_length)):
        if value is not None and value <= 0:
            raise BadInput("a positive number", repr(value), "Change it.", where=name)
    config, target = classifier(directory), Path(target)
    if max_length is not None and max_length > config.max_positions:
        raise BadInput(
            f"a positive number, at most the model's {config.max_positions}",
            str(max_length),
            "Lower it, or leave it out.",
            where="--max-length",
        )
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
    chosen = [rows[example.origin] for example in examples]
    ids = [(x.prompt.tolist(), x.responses.tolist(), x.response_lengths.tolist()) for x in examples]
    # The size of batches is in the key because rounding depends on it, though on nothing more.
    made_of = (pretrained.fingerprint(directory), whole_numbers, batch_size, chosen, ids)
    key, found = hashlib.sha256(repr(made_of).encode()).hexdigest()[:16], []
    with written(target, key) as lines:
        if not quiet:
            for line in lines.remarks(target):
                console.print(line, soft_wrap=True)
        for i, numbers in _scores(scorer, examples, batch_size, lines.there, quiet):
            if not np.isfinite(numbers).all():
                got = str(np.ravel(numbers).tolist())
                raise BadInput("finite scores", got, "Look at the model's weights.",
                               where=examples[i].origin)  # fmt: skip
            found.append(numbers)
            rated = scorer.ratings(numbers) if whole_numbers else numbers
            lines.write(chosen[i] | _columns(chosen[i], rated, scorer.names))
    if not quiet:
        all_of_them = np.concatenate([np.zeros((0, len(scorer.names)), np.float32), *found])
        for name, x in zip(scorer.names, all_of_them.T, strict=True):
            _say_scores(name, x)
        _say_written(target, chosen, scorer.names)
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

    Of a conversation it judges the last answer, and takes what comes before for the prompt. It is
    given no `completion_ids`: texts of a file have none. Columns are replaced as by `score`.
    It is called, and rows are written, by portions (of `ASKED` rows): where the work is stopped,
    the same call goes on behind them while rows and code are the same. A function whose source
    Python does not know is asked anew.

    Args:
        function: `path/to/file.py:name` or `package.module:name`, as
            `generate.reward_functions.Function` has it. Strings stay strings, dialogues of HH
            data too.
        source: a path, `tfds:NAME` or `hf:owner/name`.
        target: the file to write; it may not be there yet, its folder must.
        on_bad_row: as in `score`; a row is defective too where the function gives one of its
            responses no finite number.

    Raises:
        BadInput: no such function, one that asks for what is not there, a number that is none, a
            file that is there already or cannot be written, a column that JSON cannot hold, or
            rows that were left out by earlier work, where they are now to stop it.
    """
    on_bad = "mask" if on_bad_row == "drop" else "refuse"
    judge, target = Function(function=function), Path(target)
    rewards = Rewards(parts=(judge,), on_bad=on_bad)
    rewards.check()
    code = judge.fingerprint()
    read, dropped = _read(source, split, on_bad_row, words=True)
    made_of = (code, function.rpartition(":")[2], [row for row, _ in read])
    key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:16] if code else None
    kept, found, bad = [], [np.zeros(0, np.float32)], Tally()
    with written(target, key) as lines:
        if not quiet:
            for line in lines.remarks(target):
                console.print(line, soft_wrap=True)
        for i, why in lines.left_out.items():
            if on_bad_row == "refuse":
                raise BadInput(
                    "a finite number for every completion", why,
                    f"Give --on-bad-row drop again, or delete {lines.file.name} to ask anew.",
                    where=read[i][1].origin,
                )  # fmt: skip
            dropped.add(why, read[i][1].origin)
        kept += [row for i, (row, _) in enumerate(read[: lines.there]) if i not in lines.left_out]
        for i, numbers, good in _asked(rewards, read, lines.there, bad):
            row, group = read[i]
            found.append(numbers[good])
            if good.all():
                kept.append(row)
                lines.write(row | _columns(row, numbers[:, None], rewards.names))
            else:
                lines.leave_out(why := f"no number from {rewards.names[0]}")
                dropped.add(why, group.origin)
        if not kept:
            lines.forget()  # a judge that no one reached is to be asked again
            raise BadInput("a row whose responses all have a number", f"none: {bad or dropped}",
                           "Mend the function.", where=function)  # fmt: skip
    if not quiet:
        _say_scores(rewards.names[0], np.concatenate(found))
        _say_dropped(dropped)
        _say_written(target, kept, rewards.names)
    return target


def _asked(
    rewards: Rewards, read: Sequence[tuple[Row, Group]], there: int, bad: Tally
) -> Iterator[tuple[int, Float32[np.ndarray, " k"], Bool[np.ndarray, " k"]]]:
    """The number of each row from `there` on, what its responses are given, and which have it.

    By portions; one that is there in part is asked about whole, as by work that nothing stopped.
    Why responses have no number is counted in `bad`.
    """
    names = dict.fromkeys(name for row, _ in read for name in row if name not in _NO_COLUMNS)
    for first in range(there - there % ASKED, len(read), ASKED):
        part = read[first : first + ASKED]
        responses = [(row, group, x) for row, group in part for x in group.responses]
        asked = [last_answer(group.prompt, x) for _, group, x in responses]
        scored = rewards.score(
            [prompt for prompt, _ in asked],
            [text for _, text in asked],
            completion_ids=None,
            columns={name: [row.get(name) for row, *_ in responses] for name in names},
        )
        bad.include(scored.bad)
        ends = np.cumsum([len(group.responses) for _, group in part])[:-1]
        each = zip(np.split(scored.total, ends), np.split(scored.good, ends), strict=True)
        yield from ((i, *one) for i, one in enumerate(each, first) if i >= there)


_NO_COLUMNS = ("prompt", *TEXTS)  # what a function is given under other names


def _read(
    source: str, split: str, on_bad_row: OnBadRow, *, chat: bool = False, words: bool = False
) -> tuple[list[tuple[Row, Group]], Tally]:
    """The rows with their responses, and the count of those that cannot be judged."""
    read, dropped = [], Tally()
    for row, origin in read_rows(source, split=split):
        check_json(row, origin)
        try:
            group = to_judge(row, origin, chat=chat)
            if words:
                check_words(group.responses, origin)
            read.append((row, group))
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


def _say_scores(name: str, scores: np.ndarray) -> None:
    if len(scores):  # else an earlier process has written all of them
        console.print(f"{escape(name)}: mean {scores.mean():.4g}, deviation {scores.std():.4g}, "
                      f"n {len(scores):,}")  # fmt: skip


def _say_written(target: Path, rows: Sequence[Row], names: Sequence[str]) -> None:
    had = collections.Counter(
        name for row in rows for name in _names(row, len(names)) if row.get(name) is not None
    )
    for name, count in had.items():
        console.print(f"[yellow]replaced[/]: {name}, which {count:,} of the rows had")
    said = f"[bold]written[/]: {escape(str(target))}, {len(rows):,} rows"
    console.print(said, soft_wrap=True)


def _names(row: Mapping[str, Any], outputs: int) -> tuple[str, ...]:
    """The columns that a row is given."""
    if outputs > 1:
        return ("attributes",)
    if "prompt" in row and any(isinstance(row.get(name), list) for name in LISTS):
        return ("scores",)
    return ("score_chosen", "score_rejected") if "rejected" in row else ("score",)


def _columns(row: Mapping[str, Any], numbers: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """What is added to a row: `numbers` has a row for each response, a column for each output.

    A number is written as the shortest decimal that reads back as the same float32.
    """
    columns, scores = _names(row, len(names)), [[float(str(x)) for x in one] for one in numbers]
    if len(names) > 1:
        return {columns[0]: dict(zip(names, scores[0], strict=True))}
    single = [one[0] for one in scores]
    return dict(zip(columns, [single] if columns == ("scores",) else single, strict=True))


def _scores(
    scorer: Scorer, examples: Sequence[Example], batch_size: int, there: int, quiet: bool
) -> Iterator[tuple[int, Float32[np.ndarray, "k c"]]]:
    """The number and the outputs of each example from `there` on, in order, by portions.

    A portion that is there in part is computed whole: so scores round as those of an unbroken work.
    """
    groups = [
        Tokens(example.prompt.tolist(), [ids.tolist() for ids, _ in example.split()])
        for example in examples
    ]
    parts = [range(i, min(i + PORTION, len(groups))) for i in range(0, len(groups), PORTION)]
    parts = [part for part in parts if part.stop > there]
    steps: Iterator[Any] = itertools.chain.from_iterable(
        scorer([groups[i] for i in part], batch_size=batch_size) for part in parts
    )
    counts = [sum(len(groups[i].responses) for i in part) for part in parts]
    if not quiet:
        steps = through(steps, sum(counts), "score", console)
    for part, count in zip(parts, counts, strict=True):
        made = [np.zeros((len(groups[i].responses), len(scorer.names)), np.float32) for i in part]
        for index, response, numbers in itertools.islice(steps, count):
            made[index][response] = numbers
        yield from ((i, one) for i, one in zip(part, made, strict=True) if i >= there)
    next(steps, None)  # which ends the bar
