"""What of a method decides the text that is prepared for it."""

import dataclasses

from alignax.core.method import Method, text_settings
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


def test_another_text_or_another_method_is_prepared_anew():
    assert text_settings(Quiz()) != text_settings(Quiz(hint="think first"))
    assert text_settings(DPO()) != text_settings(SFT())
    assert text_settings(PRO()) != text_settings(PRO(normalise=True))  # whose scores differ
