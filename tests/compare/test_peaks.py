"""What a run held at most is its own, or its entry's, and never another's."""

import jax
import numpy as np
import pytest

from alignax.compare import peaks
from alignax.compare.peaks import MIB, Peaks


class Device:
    """Memory of an accelerator: its counter keeps the most that was ever held, in MiB."""

    def __init__(self, monkeypatch):
        self.most = 0
        monkeypatch.setattr(peaks.jax, "default_backend", lambda: "gpu")

    def __call__(self):
        return self.most * MIB

    def holds(self, mib):
        self.most = max(self.most, mib)


@pytest.fixture
def device(monkeypatch):
    return Device(monkeypatch)


def runs(device, *held):
    """The peaks of runs of an entry that hold so much, and of what they ask for afterwards."""
    found, measured = [], Peaks(device)
    for entry, training, judging in held:
        measured.begin()
        device.holds(training)
        found.append(measured.end(entry))
        device.holds(judging)
    return found


def test_a_run_of_more_than_all_before_has_its_own_peak(device):
    assert runs(device, ("dpo", 300, 0), ("dpo", 310, 0)) == [300, 310]


def test_the_next_seed_has_the_peak_of_the_first(device):
    assert runs(device, ("dpo", 300, 0), ("dpo", 300, 0), ("dpo", 300, 0)) == [300, 300, 300]


def test_judging_the_answers_is_no_part_of_it(device):
    assert runs(device, ("dpo", 300, 900), ("dpo", 300, 900)) == [300, 300]


def test_a_smaller_entry_behind_a_larger_one_has_none(device):
    assert runs(device, ("ppo", 800, 0), ("dpo", 300, 0), ("ppo", 800, 0)) == [800, None, 800]


def test_a_device_that_does_not_tell_has_none(device):
    measured = Peaks(lambda: None)
    measured.begin()
    assert measured.end("dpo") is None


class Told:
    """A device of JAX, with what it says of its memory."""

    def __init__(self, stats):
        self.memory_stats = lambda: stats


@pytest.mark.parametrize(
    ("stats", "most"),
    [
        ([{"peak_bytes_in_use": 5}, {"peak_bytes_in_use": 7}], 7),
        ([{"peak_bytes_in_use": 5}, {"bytes_in_use": 7}], None),
        ([None], None),
    ],
)
def test_of_several_devices_the_one_that_held_most(monkeypatch, stats, most):
    monkeypatch.setattr(peaks.jax, "local_devices", lambda: [Told(x) for x in stats])
    assert peaks.held() == most


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of this process's own memory")
def test_on_cpus_it_is_what_a_run_holds_beyond_what_was_held():
    """Twice, since the first run's arrays are given back and the peak forgotten before the next."""
    measured, kept = Peaks(), np.ones(64 * MIB, np.uint8)
    for mib in (192, 96):
        measured.begin()
        np.ones(mib * MIB, np.uint8)
        found = measured.end("dpo")
        if found is None:
            pytest.skip("not Linux with glibc")
        assert mib - 8 < found < mib + 64  # the second's is below the first's, whatever else runs
    assert kept[-1] == 1
