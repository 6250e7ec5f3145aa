"""What a run measures: held-out metrics, held-out answers and their rewards, before and after."""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignax.core import processes
from alignax.core.errors import BadInput
from alignax.core.method import Method
from alignax.core.types import Params
from alignax.data import json_lines
from alignax.data.pipeline import Groups
from alignax.data.preflight import check_vocabulary
from alignax.data.tokenise import Example
from alignax.evaluate.evaluators import Answers, HeldOut, Sampled
from alignax.evaluate.report import answers_table, as_metrics, estimates_table, from_metrics
from alignax.generate.drawing import judge
from alignax.run import Run


def held_out(run: Run, params: Params) -> HeldOut | None:
    """The method's own metrics on held-out groups; None where there are none.

    Args:
        params: of the reference, in case its log-probabilities are not on disk yet.
    """
    if run.experiment.rollout or run.eval_data is None:
        return None
    data = run.eval_data
    plan = run.one_pass(data)
    return HeldOut(
        method=run.method,
        model=run.model_fn(plan),
        groups=data,
        plan=plan,
        numbers=run.reference(data, run.policy(params), "held out"),
        put=run.put,
        prompts=_prompts(run, data),
    )


def _prompts(run: Run, data: Groups) -> list[bytes] | None:
    """Of each held-out group its prompt; None where its tokens say which that is.

    A request in a prompt, such as for the score of the response that follows, is no part of it:
    asked as the policy is, those of one prompt are alike again.
    """
    if type(run.method).ask is Method.ask:
        return None
    asking = run.prepared("eval", asked=True)
    asked = {x.origin: x.prompt for x in map(asking.__getitem__, range(len(asking)))}
    groups = map(data.__getitem__, range(len(data)))
    return [asked.get(x.origin, x.prompt).tobytes() for x in groups]


def keep_bad(run: Run) -> Callable[[int, Any], Path]:
    """Writes out, as text, the batch of an update that was skipped."""

    def keep(step: int, arrays: Any) -> Path:
        batch = processes.fetch(arrays[0])
        rows = []
        for micro in range(len(batch.valid)):
            for b in np.flatnonzero(batch.valid[micro].any(axis=1)):
                there, mask = batch.valid[micro, b], batch.mask[micro, b]
                ends = [np.flatnonzero(row).max(initial=-1) + 1 for row in mask]
                responses = zip(batch.responses[micro, b], ends, strict=True)
                prompt = batch.prompts[micro, b, : batch.prompt_lengths[micro, b]]
                row = {
                    "prompt": run.decode(prompt),
                    "completions": run.decode_all([row[:end].tolist() for row, end in responses]),
                    "scores": batch.scores[micro, b].tolist(),
                    "valid": there.tolist(),
                    "tokens": [len(prompt), *map(int, mask.sum(axis=1))],
                }
                if batch.ref_logprobs is not None:
                    row["ref_logps"] = batch.ref_logprobs[micro, b].sum(axis=1).tolist()
                rows.append(json.dumps(row, ensure_ascii=False))
        path = Path(run.experiment.output_dir) / f"bad-update-{step}.jsonl"
        if processes.is_first():
            path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        return path

    return keep


def sampled(run: Run) -> Sampled | None:
    """Answers to held-out prompts; None where none are asked for."""
    settings, drawn = run.experiment.evaluation, run.experiment.rollout
    if (settings.prompts or run.experiment.data.eval) is None or settings.num_prompts == 0:
        return None
    if run.method.needs().head == "reward":
        return None
    which = "eval" if settings.prompts is None else "answered"
    if drawn or settings.prompts is not None:
        prompts = list(run.prompts(which).ids[: settings.num_prompts])
        origins = run.prompts(which).origins
    else:
        own_way = type(run.method).ask is not Method.ask
        data = run.prepared("eval", asked=True) if own_way else run.eval_data
        assert data is not None
        asked = distinct(data, settings.num_prompts)
        check_vocabulary(asked, run.renderer, vocab_size=run.decoder.config.vocab_size)
        prompts, origins = [x.prompt for x in asked], [x.origin for x in asked]
    _check_room(run, prompts, origins)

    def reward(ids: Sequence[Sequence[Sequence[int]]], ended: np.ndarray) -> np.ndarray:
        """NaN where a reward is masked."""
        found = judge(run.prompts(which), range(len(ids)), ids, ended, drawn, run.decode_all)
        return np.where(found[1].good.reshape(ended.shape), found[2], np.nan)

    return Sampled(
        model=run.decoder,
        prompts=prompts,
        end_ids=sorted(run.renderer.end_ids),
        sampler=settings.sampler,
        seed=run.experiment.seed,
        reward=reward if drawn else None,
        weights=run.decoding_shardings,
    )


def distinct(data: Groups, most: int) -> list[Example]:
    """The first groups of so many prompts: of a prompt with several groups the first."""
    found: dict[bytes, Example] = {}
    for i in range(len(data)):
        if len(found) == most:
            break
        example = data[i]
        found.setdefault(example.prompt.tobytes(), example)
    return list(found.values())


def _check_room(run: Run, prompts: Sequence[np.ndarray], origins: Sequence[str]) -> None:
    """Refuses held-out prompts that leave no room to answer."""
    positions = run.decoder.config.max_positions
    new_tokens = run.experiment.evaluation.sampler.max_new_tokens
    room = max(0, positions - new_tokens)
    for prompt, origin in zip(prompts, origins, strict=False):
        if len(prompt) > room:
            raise BadInput(
                f"held-out prompts of at most {room} tokens: the model has {positions} positions, "
                f"and evaluation.sampler.max_new_tokens are {new_tokens}",
                f"{len(prompt)} tokens",
                "Lower evaluation.sampler.max_new_tokens; or set data.limits.max_prompt_length, by "
                "which longer ones are left out and counted.",
                where=origin,
            )


class Evaluator:
    """Evaluates a run before, during and after, keeps what was found, and prints it.

    Calling it with the reference's own parameters (step 0) leaves the KL out: it is 0.
    """

    def __init__(self, run: Run, params: Params, num_steps: int):
        self._run, self._num_steps = run, num_steps
        self._held_out, self._sampled = held_out(run, params), sampled(run)

    def __call__(self, step: int, params: Params) -> dict[str, float]:
        """Held-out metrics at every call; answers to prompts as `evaluation.answers` says."""
        run, found = self._run, {}
        if self._held_out is not None:
            bar = run.bar(f"evaluate at step {step}")
            at_reference = step == 0 and run.method.needs().reference
            found |= self._held_out(
                None if at_reference else params, method=run.method, progress=bar
            )
        always = run.experiment.evaluation.answers == "always"
        if self._sampled is not None and (always or step in (0, self._num_steps)):
            reference = None if step == 0 else run.initial_policy()
            answers = self._sampled(
                run.policy(params),
                reference,
                seed=run.experiment.seed,
                progress=run.bar("sample answers"),
            )
            found |= answers.estimates
            if processes.is_first():
                self._keep(step, self._sampled.prompts, answers)
        return as_metrics(found)

    def of(self, run: Run) -> "Evaluator":
        """The same for a run that `Run.like` made of this one: it compiles nothing anew."""
        other = copy.copy(self)
        other._run = run
        return other

    def _samples(self, step: int) -> Path:
        return Path(self._run.experiment.output_dir) / f"samples-{step}.jsonl"

    def _keep(self, step: int, prompts: Sequence[np.ndarray], answers: Answers) -> None:
        with self._samples(step).open("w", encoding="utf-8") as file:
            for i, (prompt, tokens) in enumerate(zip(prompts, answers.tokens, strict=True)):
                row = {
                    "prompt": self._run.decode(prompt),
                    "completions": self._run.decode_all(tokens),
                    "ended": answers.ended[i].tolist(),
                    **{name: _as_json(x[i]) for name, x in answers.numbers.items()},
                }
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")

    def report(self, logged: Callable[[int], dict[str, float]]) -> None:
        """Prints before and after, from the log: an earlier process may have been before.

        Args:
            logged: the metrics of a step.
        """
        run, ends = self._run, (0, self._num_steps)
        before, after = (from_metrics(logged(step), self.count) for step in ends)
        if not after:
            return
        run.say(estimates_table(before, after))
        if self._sampled is None or not all(self._samples(step).is_file() for step in ends):
            return
        shown = range(min(run.experiment.evaluation.shown, len(self._sampled.prompts)))
        columns = []
        for step in ends:
            rows = json_lines.read(self._samples(step))
            columns.append([rows[i]["completions"][0].strip() for i in shown])
        prompts = [run.last_turn(self._sampled.prompts[i]) for i in shown]
        run.say(answers_table(prompts, *columns))

    def count(self, name: str) -> int:
        """The prompts behind a metric."""
        if name.startswith("eval_sampled/"):
            return 0 if self._sampled is None else self._sampled.num_prompts
        return 0 if self._held_out is None else self._held_out.num_prompts


def _as_json(values: np.ndarray) -> list[int | float | None]:
    """Numbers as JSON has them: null for a reward that is masked, and what is not finite."""
    return [x if np.isfinite(x) else None for x in values.tolist()]
