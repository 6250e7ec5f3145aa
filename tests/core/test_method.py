"""What of a method decides the text that is prepared for it."""

import dataclasses
import functools

import jax

from alignax.core.method import Method, text_settings, with_scalars
from alignax.core.types import Scalar
from alignax.methods import DPO, PRO, RRHF, SFT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quiz(Method):
    """Never listed: a method whose text has a setting."""

    hint: str = "none"
    beta: Scalar = 0.1

    def needs(self):
        raise NotImplementedError

    def group(self, record):
        raise NotImplementedError

    def loss(self, outputs, batch):
        raise NotImplementedError


def test_a_sweep_over_numbers_of_the_loss_prepares_its_data_once():
    assert text_settings(DPO(beta=0.1)) == text_settings(DPO(beta=0.5, label_smoothing=0.2))
    assert text_settings(Quiz(beta=0.1)) == text_settings(Quiz(beta=0.2))
    assert text_settings(DPO()) == text_settings(DPO(average=True))
    assert text_settings(RRHF()) == text_settings(RRHF(average_nll=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checked(Quiz):
    """Whose constructor takes no number that a user would not give."""

    def __post_init__(self):
        if not 0 < self.beta < 0.5:
            raise ValueError(f"beta must be in (0, 0.5), got {self.beta}")

    @functools.cached_property
    def double(self):
        return 2 * self.beta


def test_a_constructors_checks_are_of_what_the_user_gives_alone():
    made = Checked(hint="first", beta=0.25)
    assert made.double == 0.5
    other = with_scalars(made, {"beta": 1.0})
    assert (type(other), other.hint, other.beta, other.double) == (Checked, "first", 1.0, 2.0)
    assert with_scalars(other, {"beta": 0.25}) == made
    traced = jax.jit(lambda beta: with_scalars(made, {"beta": beta}).beta + 1.0)(0.25)
    assert traced == 1.25


def test_another_text_or_another_method_is_prepared_anew():
    assert text_settings(Quiz()) != text_settings(Quiz(hint="think first"))
    assert text_settings(DPO()) != text_settings(SFT())
    assert text_settings(PRO()) != text_settings(PRO(normalise=True))  # whose scores differ
