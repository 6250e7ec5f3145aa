"""The model card of an export: README.md with the hub's metadata, then what was done, in tables.

Nothing is claimed that the run has not kept: what is not known is left out.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignax import facts
from alignax.data.sources import HUB_NAME
from alignax.evaluate.stats import Estimate
from alignax.run import Run

# Settings that are told elsewhere in the card, or that say how a run was watched, not what it did.
_ELSEWHERE = re.compile(
    r"model\.(model|critic)_name_or_path|loop\.(max_steps|num_train_epochs|logging_steps|"
    r"eval_steps|save_steps|keep)|rollout\.(slots|shapes|show_every|kept|server.*)|.*\.type"
)


def write(run: Run, step: int) -> str:
    """The text of a run's model card.

    Args:
        step: of the checkpoint that is exported: updates made.
    """
    known = facts.kept(run)
    evaluated = known.get("evaluated", {})
    before, after = (facts.estimates(run, s, evaluated) for s in (0, step))
    name = _title(run)
    parts = [
        "---\n" + _metadata(run, known, after, name) + "---\n",
        f"# {name}\n",
        _summary(run, known, step),
        _section("Use", _use(run)),
        _section("Method", _method(known)),
        _section("Data", _data(known.get("data", ()))),
        _section("Training", _training(known, step)),
        _section("Evaluation", _evaluation(before, after, step)),
        _section("Made with", _made(known)),
    ]
    return "\n".join(part for part in parts if part)


def _title(run: Run) -> str:
    base = Path(run.experiment.model.model_name_or_path).name
    return f"{base}-{facts.of(run)['method']['name']}"


def _metadata(run: Run, known: Mapping[str, Any], after: Mapping[str, Estimate], name: str) -> str:
    """YAML, of which JSON is a part: strings are written as JSON has them."""
    task = "text-classification" if run.num_scores else "text-generation"
    base = hub_id(run.experiment.model.model_name_or_path)
    sources = [hub_id(row["source"].removeprefix("hf:")) for row in known.get("data", ())]
    datasets = [source for source in dict.fromkeys(sources) if source]
    library = "peft" if _is_adapter(run) else "transformers"
    lines = [f"library_name: {library}", f"pipeline_tag: {task}"]
    lines += [f"base_model: {base}"] if base else []
    lines += [f"license: {license_of(run.model_dir)}"] if license_of(run.model_dir) else []
    lines += ["datasets:", *(f"- {source}" for source in datasets)] if datasets else []
    lines += ["tags:", "- alignax", f"- {json.dumps(known['method']['name'])}"]
    finite = {n: e for n, e in after.items() if math.isfinite(e.mean)}
    held_out = next((row for row in known.get("data", ()) if row["use"] == "eval"), None)
    if finite and held_out:
        source = held_out["source"].removeprefix("hf:")
        shown = hub_id(source) or shown_path(source)
        lines += [
            "model-index:",
            f"- name: {json.dumps(name)}",
            "  results:",
            f"  - task: {{type: {task}}}",
            f"    dataset: {{name: {json.dumps(shown)}, type: {json.dumps(shown)}, "
            f"split: {json.dumps(held_out['split'])}}}",
            "    metrics:",
            *(
                f"    - {{type: {json.dumps(n.removeprefix('eval_'))}, value: {e.mean:.6g}}}"
                for n, e in finite.items()
            ),
        ]
    return "\n".join(lines) + "\n"


def _summary(run: Run, known: Mapping[str, Any], step: int) -> str:
    given = run.experiment.model.model_name_or_path
    base = f"[{given}](https://huggingface.co/{given})" if hub_id(given) else shown_path(given)
    total = known.get("steps", step)
    count = f"{step:,}" if step == total else f"{step:,} of {total:,}"
    made = f"{count} update{'' if total == 1 else 's'}"
    kind = "A reward model" if run.num_scores else "A language model"
    if _is_adapter(run):
        kind = "An adapter of a reward model" if run.num_scores else "An adapter"
    return f"{kind}: {base}, trained further by {known['method']['class']}, {made}.\n"


def _is_adapter(run: Run) -> bool:
    settings = run.experiment.adapter
    return settings is not None and settings.export == "adapter"


def _use(run: Run) -> str:
    if run.num_scores and _is_adapter(run):
        return "PEFT loads it onto the base, as a sequence classifier with its own `score` head.\n"
    told = dict(run.experiment.data.chat_template_kwargs)
    if run.num_scores:
        return _use_of_scores(run.experiment.data.template, run.num_scores, told)
    options = "".join(f", {name}={value!r}" for name, value in told.items())
    if run.experiment.data.template == "none":
        return "Trained on plain strings, without a chat template: prompts go in as they stand.\n"
    loads = "from transformers import AutoModelForCausalLM, AutoTokenizer"
    if _is_adapter(run):
        loads = "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer"
    model = "AutoPeftModelForCausalLM" if _is_adapter(run) else "AutoModelForCausalLM"
    text = (
        f"```python\n{loads}\n\n"
        'tokenizer = AutoTokenizer.from_pretrained(".")\n'
        f'model = {model}.from_pretrained(".")\n'
        'turns = [{"role": "user", "content": "Hello!"}]\n'
        "prompt = tokenizer.apply_chat_template(\n"
        f'    turns, add_generation_prompt=True, return_tensors="pt"{options}\n)\n'
        "print(tokenizer.decode(model.generate(**prompt, max_new_tokens=128)[0]))\n```\n"
    )
    if run.experiment.data.chat_template is not None:
        text += "\nThe chat template beside the tokenizer is the one of the training.\n"
    return text


def _use_of_scores(template: str, outputs: int, told: Mapping[str, Any]) -> str:
    """How a reward model is used, here and elsewhere.

    Args:
        template: of its training, as in `config.Data`, with what it was told.
    """
    ends = "text" if template == "none" else "rendered conversation"
    text = (
        "A sequence classifier for transformers; the score is read at the last token of the "
        f"{ends}.\n"
    )
    if told and template == "chat":
        said = ", ".join(f"`{name}={value!r}`" for name, value in told.items())
        text += f"The chat template is told {said}; alignax reads that in config.json.\n"
    given = ['directory="."', *(["head=0"] if outputs > 1 else [])]
    given += ['template="none"'] if template == "none" else []
    option = " --template none" if template == "none" else ""
    return text + (
        f"\nIn alignax `alignax score . --data FILE --to FILE{option}` scores responses, and as a "
        f"reward of sampled ones, in a config, it is\n\n"
        "```python\nfrom alignax import ModelReward, Rewards, Rollout\n\n"
        f"rollout = Rollout(rewards=Rewards(parts=(ModelReward({', '.join(given)}),)))\n```\n"
    )


def _method(known: Mapping[str, Any]) -> str:
    method, settings = known["method"], known["settings"]
    lines = [f"`{method['class']}`. {method['about']}"]
    if method["paper"]:
        lines.append(f"Paper: [arXiv:{method['paper']}](https://arxiv.org/abs/{method['paper']}).")
    if method["reference"]:
        lines.append("The reference is the model that training began from.")
    if method["sampled"]:
        lines.append("The responses were sampled during training.")
    rows = _flat(settings["method"], "") + _flat(settings.get("rollout", {}), "rollout.")
    return "\n".join([*lines, "", _table(("hyperparameter", "value"), rows) if rows else ""])


def _data(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    cells = []
    for row in rows:
        lost = {**row["bad rows"], **row["left out"], **row["too long or not rendered"]}
        lost |= {f"cut: {reason}": n for reason, n in row["cut"].items()}
        cells.append(
            (
                {"train": "training", "eval": "held out"}[row["use"]],
                f"{shown_path(row['source'])} ({row['split']})",
                f"{row['rows']:,}",
                f"{row['records']:,}",
                f"{row['used']:,}",
                "; ".join(f"{n:,} {reason}" for reason, n in lost.items()) or "none",
                ", ".join(f"{n:,} {kind}" for kind, n in row["tokens"].items()),
            )
        )
    head = ("use", "source", "rows", "records", "used", "dropped or cut", "tokens")
    return _table(head, cells) + f"\nRead as: {rows[0]['form']}.\n"


def _training(known: Mapping[str, Any], step: int) -> str:
    settings = known["settings"]
    loop = settings["loop"]
    rows = [("updates", f"{step:,}"), ("prompts an update", f"{loop['batch_size']:,}")]
    rows += _flat({"loop": {k: v for k, v in loop.items() if k != "batch_size"}}, "")
    for name in ("optim", "model", "mesh"):
        rows += _flat(settings[name], f"{name}.")
    rows += _flat(settings["data"]["limits"], "data.limits.")
    rows += [
        (f"data.{name}", _given(settings["data"][name]))
        for name in ("template", "chat_template", "chat_template_kwargs", "columns", "pairing")
        if settings["data"].get(name)
    ]
    return _table(("setting", "value"), [*rows, ("seed", str(settings["seed"]))])


def _evaluation(before: Mapping[str, Estimate], after: Mapping[str, Estimate], step: int) -> str:
    if not before and not after:
        return ""
    rows = []
    for name in {**before, **after}:
        sides = [str(side[name]) if name in side else "" for side in (before, after)]
        count = (after.get(name) or before[name]).n
        rows.append((name.removeprefix("eval_"), f"{count:,}", *sides))
    text = "Held-out means with 95% intervals over n prompts, before training and after.\n\n"
    if not after:
        text += f"Nothing was measured at update {step:,}, which is not the last one.\n\n"
    if any(n.endswith("rewards/margins") and e.low == e.high == 0 for n, e in before.items()):
        text += "Before, policy and reference are the same: no pair is won and none lost.\n\n"
    return text + _table(("measure", "n", "before", "after"), rows)


def _made(known: Mapping[str, Any]) -> str:
    each = [one["versions"] for one in known.get("around", [])]
    said = [", ".join(f"{name} {x}" for name, x in one.items()) for one in each]
    versions = "; then ".join(dict.fromkeys(said))
    command = known.get("command")
    return "\n".join(
        [
            *([f"{versions}.\n"] if versions else []),
            *([f"```\n{command}\n```\n"] if command else []),
        ]
    )


def hub_id(name: str) -> str | None:
    """The name, where it is one of the hub's (`owner/name`) and not a path on this machine."""
    return name if HUB_NAME.fullmatch(name) and not Path(name).expanduser().exists() else None


def shown_path(name: str) -> str:
    """A source for other people: of an absolute path its last part, which says enough."""
    return Path(name).name if name.startswith(("/", "~")) else name


def license_of(directory: Path) -> str | None:
    """What the card of the model that training began from says of its license, if it does."""
    try:
        text = (directory / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    found = front and re.search(r"^license:[ \t]*([\w.+-]+)[ \t]*$", front[1], re.MULTILINE)
    return found[1] if found else None


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text.strip() else ""


def _flat(settings: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    """Dotted names and values of all settings that are set and not told elsewhere."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        whole = f"{prefix}{name}"
        if name == "type" or _ELSEWHERE.fullmatch(whole) or value in (None, [], {}):
            continue
        if isinstance(value, dict):
            rows += _flat(value, f"{whole}.")
        else:
            rows.append((whole, _value(value)))
    return rows


def _given(value: Any) -> str:
    """A setting that may be a name, a path, or a whole template."""
    if not isinstance(value, str):
        return str(value)
    return "given as text" if "{" in value else shown_path(value)


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; what would end a cell or a line in one is written otherwise."""
    safe = lambda cell: cell.replace("|", "\\|").replace("\n", " ")  # noqa: E731
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(safe, line)) + " |\n" for line in lines)
