"""Where no bar can be drawn, a line now and then says how far something has come."""

import io

import pytest
from rich.console import Console

from alignax.core.telling import EVERY, Lines, span, through
from alignax.train.bar import Bar


class Clock:
    """Seconds, as the test has them pass."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def log(terminal=False):
    return Console(file=io.StringIO(), force_terminal=terminal, width=40)


def said(console):
    return console.file.getvalue().splitlines()


def test_a_line_comes_after_thirty_seconds_and_says_what_is_left():
    console, clock = log(), Clock()
    lines = Lines(console, clock=clock)
    for done in range(1, 11):
        clock.now += 7.0
        lines.say("cells of a comparison whose name is long", done, 10)
    # 35 and 70 seconds are the first moments at least 30 after the start, and after the last line.
    assert said(console) == [
        "cells of a comparison whose name is long  5/10  0:00:35, 0:00:35 left",
        "cells of a comparison whose name is long  10/10  0:01:10, 0:00:00 left",
    ]


def test_what_was_there_before_took_no_time():
    console, clock = log(), Clock()
    lines = Lines(console, first=True, clock=clock)
    lines.say("train", 6, 10, begin=6)
    clock.now += EVERY
    lines.say("train", 8, 10, begin=6)
    assert said(console) == ["train  6/10  0:00:00", "train  8/10  0:00:30, 0:00:30 left"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00:00"), (59.6, "0:01:00"), (3725.0, "1:02:05")]
)
def test_times_are_written_as_on_bars(seconds, text):
    assert span(seconds) == text


def test_a_terminal_has_its_bar_and_no_lines():
    console, clock = log(terminal=True), Clock()
    Lines(console, first=True, clock=clock).say("train", 1, 2)
    assert said(console) == []


def test_a_terminal_without_a_cursor_has_lines():
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    Lines(console, first=True, clock=Clock()).say("train", 1, 2)
    assert said(console) == ["train  1/2  0:00:00, 0:00:00 left"]


@pytest.mark.parametrize("terminal", [True, False])
def test_steps_come_through_as_they_are(terminal):
    console = log(terminal)
    assert list(through(iter("abc"), 3, "score", console)) == ["a", "b", "c"]
    assert bool(said(console)) == terminal  # over before a line was due


@pytest.mark.parametrize("quiet", [True, False])
def test_a_log_has_a_line_as_soon_as_the_first_update_has_ended(quiet):
    console = log()
    values = {"loss": 0.6931, "num_tokens": 400.0, "rewards/accuracies": 0.5}
    with Bar(4, 8, quiet, console, Clock()) as bar:
        bar.show(5, values, seconds=0.2)
        now = said(console)
    expected = "train  loss 0.6931  accuracy 0.50  2,000 tokens/s  5/8  0:00:00, 0:00:00 left"
    assert now == ([] if quiet else [expected])
