"""A user's own method that does not keep to the contract is refused before any work."""

import dataclasses
import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import pytest

from alignax import methods
from alignax.core import contract
from alignax.core.errors import BadInput
from alignax.core.method import Method, Needs, Sampling
from alignax.core.records import Group, Preference, Prompt
from alignax.run import Run
from tests.method_cases import RECORDS, made
from tests.tiny_model import experiment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own(Method):
    """Whose loss gives what a test wants."""

    kind: str = "sound"

    def needs(self):
        return Needs(record=Preference, reference=True)

    def group(self, record):
        raise NotImplementedError

    def means(self, outputs, batch):
        return {"mean": batch.scores if self.kind == "means" else batch.scores[:, 0]}

    def loss(self, outputs, batch):
        assert batch.ref_logprobs is not None
        logps, ref = ((x * batch.mask).sum(-1) for x in (outputs.logprobs, batch.ref_logprobs))
        loss = (ref - logps)[:, 0]
        won = logps[:, 0] > logps[:, 1]
        return {
            "sound": (loss, {"won": won, "first": logps[:, 0]}),
            "means": (loss, {}),
            "mean": (loss.mean(), {}),
            "column": (loss[:, None], {}),
            "metric": (loss, {"won": won.mean()}),
            "metric of both": (loss, {"logps": logps}),
            "taken": (loss, {"grad_norm": loss}),
            "by response": (logps.mean(axis=0), {}),
            "alone": loss,
        }[self.kind]


def check(kind, responses=2):
    contract.check(Own(kind=kind), responses=responses, length=16)


def test_a_loss_and_metrics_of_one_number_a_prompt_pass():
    check("sound")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Halved(Own):
    """Holds what follows from a number, and would keep it when a sweep gives another."""

    beta: float = 0.5
    half: float = dataclasses.field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "half", self.beta / 2)
        if self.kind == "two":
            object.__setattr__(self, "quarter", self.beta / 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named(Own):
    """With a constant, which follows from nothing."""

    paper: str = dataclasses.field(default="2401.00000", init=False)


def test_a_constant_is_none():
    contract.check_class(Named())


@pytest.mark.parametrize(("kind", "more"), [("sound", "half"), ("two", "half, quarter")])
def test_what_a_constructor_derives_is_refused(kind, more):
    with pytest.raises(BadInput) as raised:
        contract.check_class(Halved(kind=kind))
    assert str(raised.value).startswith(
        "Halved: expected Halved to hold what it is given, and nothing that follows from it; got "
        f"{more}.\n    Work it out where it is used"
    )


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("mean", "Own.loss: expected one loss a prompt, [8]; got []."),
        ("column", "Own.loss: expected one loss a prompt, [8]; got [8, 1]."),
        ("metric", "Own.loss: expected for the metric won one number a prompt, [8]; got []."),
        ("metric of both", "for the metric logps one number a prompt, [8]; got [8, 2]."),
        ("means", "Own.means: expected for mean one number a prompt, [8]; got [8, 2]."),
        ("alone", "expected a pair: one loss a prompt, and metrics by name; got the loss alone."),
        ("taken", "got grad_norm.\n    Rename it."),
    ],
)
def test_other_shapes_are_refused_by_name(kind, said):
    with pytest.raises(BadInput) as raised:
        check(kind)
    assert said in str(raised.value)


def test_prompts_are_never_as_many_as_responses():
    """So that a number a response cannot pass for one a prompt."""
    with pytest.raises(BadInput, match=r"one loss a prompt, \[9\]; got \[8\]"):
        check("by response", responses=8)


def test_an_error_of_the_loss_stays_what_it_is_and_says_when_it_was_called():
    with pytest.raises(KeyError) as raised:
        check("misspelt")
    assert raised.value.__notes__[-1].startswith("Own.loss was called on shapes alone")


@dataclasses.dataclass(frozen=True)
class Chooses(Own):
    """Half of the samples of each prompt, or something that is no batch."""

    whole: bool = True

    def needs(self):
        return Needs(record=Prompt, reference=True, reward=True, sampling=Sampling(num_samples=4))

    def select(self, key, batch):
        if not self.whole:
            return batch._replace(mask=batch.mask[:, :2])
        return jax.tree.map(lambda x: x[:, :2] if jnp.ndim(x) > 1 else x, batch)


def test_what_a_selection_keeps_is_what_the_loss_sees():
    contract.check(Chooses(), responses=4, sampled=True, length=16)
    with pytest.raises(BadInput, match=r"Chooses.select: .*got mask \[8, 2, 16\], valid \[8, 4\]"):
        contract.check(Chooses(whole=False), responses=4, sampled=True, length=16)


@pytest.mark.parametrize("cls", methods.ALL, ids=lambda cls: cls.__name__)
def test_the_packages_own_methods_keep_to_it(cls):
    method = made(cls)
    needs, group = method.needs(), method.group(RECORDS[method.needs().record])
    contract.check_class(method)
    contract.check_group(method, group)
    contract.check(
        method,
        responses=needs.sampling.num_samples if needs.sampling else len(group.responses),
        attributes=len(group.attributes[0]) if group.attributes else 0,
        sampled=needs.sampling is not None,
        length=16,
    )


def test_a_group_has_a_score_for_each_response():
    group = Group(prompt="p", responses=("a", "b"), scores=(1.0,))
    with pytest.raises(BadInput, match=r"Own.group: expected a score for each response, 2; got 1"):
        contract.check_group(Own(), group)
    with pytest.raises(BadInput, match=r"Own.group: expected a Group; got None"):
        contract.check_group(Own(), None)


def test_a_method_is_a_frozen_dataclass_of_keys():
    @dataclasses.dataclass
    class Thawed(Method):
        needs, group, loss = Own.needs, Own.group, Own.loss

    class Plain(Own):
        gamma: float = 1.0

    @dataclasses.dataclass(frozen=True)
    class Lists(Own):
        weights: list = dataclasses.field(default_factory=list)

    class Inherits(Own):
        pass

    class Tagged(Own):
        tag: ClassVar[str] = "x"

    for method, said in (
        (Own(), ""),
        (Inherits(), ""),
        (Tagged(), ""),
        (Thawed(), "Thawed to be a frozen dataclass; got a dataclass that is not frozen"),
        (Plain(), "Plain to be a frozen dataclass; got a plain class, whose fields would be no"),
        (Lists(), "Lists.weights: expected settings of a method that can be keys"),
    ):
        if not said:
            contract.check_class(method)
            continue
        with pytest.raises(BadInput) as raised:
            contract.check_class(method)
        assert said in str(raised.value)


def test_a_group_is_looked_at_with_what_training_reads(tmp_path):
    made = experiment(tmp_path, method=Turns())
    row = {"prompt": "\n\nHuman: Hi.\n\nAssistant:", "chosen": " A", "rejected": " B"}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    Run(made, quiet=True).check_method()


@dataclasses.dataclass(frozen=True)
class Turns(Own):
    """Reads a dialogue, which is not a string."""

    def group(self, record):
        assert record.prompt[0].content == "Hi."
        return Group(
            prompt=record.prompt, responses=(record.chosen, record.rejected), scores=(1.0, 0.0)
        )
