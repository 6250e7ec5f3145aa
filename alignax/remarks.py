"""What a run's data and settings say of what will be learnt: for people, and never an error."""

from rich.markup import escape

from alignax.config import Experiment
from alignax.core.method import Method
from alignax.core.records import Preference
from alignax.data import lints
from alignax.data.prepared import Prepared
from alignax.data.prompts import Prompts

DATED = (
    "[yellow]dated[/]: the chat template writes today's date (strftime_now): prompts "
    "change with the date; give data.chat_template without it, or the date in "
    "data.chat_template_kwargs where the template takes it from there"
)


def of_groups(method: Method, train: Prepared) -> list[str]:
    """Of a data set: how its pairs differ, and what the method has to say of its scores.

    Returns:
        Lines with rich's markup.
    """
    pairs = method.needs().record is Preference and train.lengths.scored.shape[1] == 2
    said = lints.of_pairs(train.lengths, train.digests) if pairs else []
    return said + [f"[yellow]train[/]: {escape(x)}" for x in method.remarks(train.gaps)]


def prompts(data: Prompts | Prepared, method: Method) -> list[int]:
    """A digest of each prompt, of prompts alone or of groups, as its tokens are.

    Of a method that asks for something in the prompt, as the prompt was before.
    """
    writes = type(method).ask is not Method.ask
    if isinstance(data, Prompts):
        if writes:
            return [lints.asked(text) for text in data.texts]
        return [lints.digest(ids) for ids in data.ids]
    if writes:
        return data.asked.tolist()
    return data.digests[:, 0].tolist()


def of_lengths(experiment: Experiment) -> list[str]:
    """Whether responses that are sampled may be longer or shorter than what else has a length."""
    return _of_the_loss(experiment) + _of_answers(experiment) if experiment.rollout else []


def _of_the_loss(experiment: Experiment) -> list[str]:
    """Where its constant is of another length than responses may have."""
    longest = experiment.rollout.sampling(experiment.method).longest
    sampled = experiment.rollout.max_new_tokens
    if longest in (None, sampled):
        return []
    return [
        f"[yellow]lengths differ[/]: the loss is divided by {longest} tokens (method.max_length), "
        f"sampled responses are cut at {sampled} (rollout.max_new_tokens): all gradients are "
        f"{sampled / longest:.3g} times those of method.max_length={sampled}"
    ]


def _of_answers(experiment: Experiment) -> list[str]:
    """Where held-out answers may be longer or shorter than those that are learnt from."""
    evaluation, rollout = experiment.evaluation, experiment.rollout
    source = evaluation.prompts or experiment.data.eval
    if source is None or not evaluation.num_prompts:
        return []
    learnt, measured = rollout.max_new_tokens, evaluation.sampler.max_new_tokens
    if measured == learnt:
        return []
    return [
        f"[yellow]lengths differ[/]: sampled responses are cut at {learnt} tokens "
        f"(rollout.max_new_tokens), held-out answers at {measured} "
        "(evaluation.sampler.max_new_tokens)"
    ]
