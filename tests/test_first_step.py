"""Before the first update the policy is the reference: whatever the method, and token by token."""

import dataclasses
import pathlib

import numpy as np
import pytest

from alignax import jobs
from alignax.core.errors import BadInput
from alignax.methods import DPO, KTO, PlackettLuceDPO
from alignax.train.sharding import Mesh
from tests.run_files import updates
from tests.tiny_model import experiment as tiny
from tests.tiny_model import write_rows


@pytest.mark.parametrize(
    "method", [DPO(), KTO(), PlackettLuceDPO()], ids=lambda x: type(x).__name__
)
def test_a_reference_that_is_off_by_what_cancels_in_a_sum_is_refused(method, tmp_path, capsys):
    """A quarter of a nat more for every other token, and as much less for those between."""
    made = tiny(tmp_path, method=method, mesh=Mesh(data=1))
    for path, count in ((made.data.train, 24), (made.data.eval, 8)):
        write_rows(pathlib.Path(path), count, method.needs().record)
    jobs.train(dataclasses.replace(made, output_dir=str(tmp_path / "whole")))
    assert "policy equals reference before the first update" in capsys.readouterr().out
    lines = updates(tmp_path / "whole")
    assert lines[0]["reference/logp_difference"] < 1e-5
    assert lines[-1]["reference/logp_difference"] > 1e-3  # it has learnt
    for path in (tmp_path / "cache").glob("ref_logprobs-*.npy"):
        values = np.load(path)
        np.save(path, values + np.where(np.arange(len(values)) % 2, 0.25, -0.25))
    with pytest.raises(BadInput) as raised:
        jobs.train(made, quiet=True)
    assert raised.value.where == "step 1"
    assert "log-probabilities that are 0.25 nats a token apart" in raised.value.got
    assert updates(tmp_path / "run") == []
