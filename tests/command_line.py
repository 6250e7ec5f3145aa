"""The command line on the tiny experiment, and how it prints and refuses."""

import pytest

from alignax.cli import main

CONFIG = """
import pathlib
from tests.tiny_model import experiment as tiny

def experiment():
    return tiny(pathlib.Path(__file__).parent)
"""


def refused(capsys, *arguments):
    """What stands on stderr when a command is refused."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert "Traceback" not in printed
    return printed


def flat(text):
    """Without the line breaks and the spaces that the width of the terminal brings."""
    return " ".join(text.split())
