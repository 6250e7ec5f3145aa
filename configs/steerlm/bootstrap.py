"""SteerLM's step 4, bootstrapping: what lies between the commands.

    python configs/steerlm/bootstrap.py ask ANNOTATED --to ASKED --quality coherence
    python configs/steerlm/bootstrap.py part SAMPLED --to ANSWERS

`ask` gives every prompt of annotated data one of the combinations of attributes that occur there
with the highest quality, all with the same probability. `part` makes a row of each sampled answer,
with the prompt as it was before, so that it is annotated for what it is and not for what was
asked. configs/steerlm_summeval.py has all commands in order. Dong et al. 2023, arXiv:2310.05344.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from alignax.core.conditioning import attributes_request, with_request
from alignax.core.records import Attributed, Text
from alignax.data.sources import load_records, read_rows
from alignax.methods.steerlm import bootstrap_targets, top_combinations


def ask(source: str, quality: str, seed: int) -> Iterable[dict[str, Any]]:
    """A row for each prompt: what it asks for is in `prompt`, and what it was in `plain`."""
    records = cast(list[Attributed], load_records(source, Attributed)[0])
    combinations = top_combinations([record.attributes for record in records], quality=quality)
    prompts = list(dict.fromkeys(record.prompt for record in records))
    first = {record.prompt: record.origin for record in reversed(records)}
    told = {at: row["tools"] for row, at in read_rows(source, split="train") if row.get("tools")}
    targets = bootstrap_targets(combinations, num_prompts=len(prompts), seed=seed)
    for prompt, target in zip(prompts, targets, strict=True):
        asked = with_request(prompt, attributes_request(target))
        beside = {"tools": told[first[prompt]]} if first[prompt] in told else {}
        yield {"prompt": _as_json(asked), "plain": _as_json(prompt), **beside}


def part(source: str) -> Iterable[dict[str, Any]]:
    """A row for each answer that says something, with whether it ended."""
    for row, _ in read_rows(source, split="train"):
        beside = {"tools": row["tools"]} if row.get("tools") else {}
        ended = row.get("ended") or [True] * len(row["completions"])
        for text, whole in zip(row["completions"], ended, strict=True):
            if text.strip():
                yield {"prompt": row["plain"], "completion": text, "ended": whole, **beside}


def _as_json(text: Text) -> Any:
    return text if isinstance(text, str) else [turn.as_dict() for turn in text]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=("ask", "part"))
    parser.add_argument("source")
    parser.add_argument("--to", required=True, type=Path)
    parser.add_argument("--quality", default="quality", help="the attribute that is to be highest")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    asking = given.job == "ask"
    rows = ask(given.source, given.quality, given.seed) if asking else part(given.source)
    given.to.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    main()
