"""Rows of data that cannot be used are refused at their line; what is dropped is counted."""

import pytest

from alignax.cli import main
from tests.refusals.runs import (
    LONG,
    PAIR,
    nothing_was_made,
    refused,
    with_second_line,
)

USER = [{"role": "user", "content": "Is 2 a number?"}]
# What the second line of the data is, and what is said of it.
ROWS = {
    "broken JSON": (
        '{"prompt": "Is 2 a number?" "chosen": "yes", "rejected": "no"}',
        "expected a JSON object; got broken JSON at column 29 (Expecting ',' delimiter).\n"
        "    Mend the file",
    ),
    "bytes of another encoding": (
        '{"prompt": "Großer"}'.encode("latin-1"),
        "expected a JSON object; got bytes that are not UTF-8 at byte 16.\n",
    ),
    "no object": ([1, 2], "expected a JSON object; got list.\n"),
    "missing field": (
        {"prompt": "Is 2 a number?", "chosen": "yes"},
        "expected the column rejected, as in the first row; got prompt, chosen.\n"
        "    Add it, remove the row, or set on_bad_row='drop'.",
    ),
    "misspelt field": (
        {"prompt": "Is 2 a number?", "chosen": "yes", "rejectd": "no"},
        "got prompt, chosen, rejectd.\n    Did you mean rejected by rejectd? Rename the column.",
    ),
    "empty field": (
        PAIR | {"chosen": ""},
        "expected text in chosen; got an empty string.\n"
        "    Fill it, remove the row, or set on_bad_row='drop'.",
    ),
    "white space": (PAIR | {"prompt": " \n"}, r"expected text in prompt; got only white space"),
    "null": (PAIR | {"rejected": None}, "expected text in rejected; got null.\n"),
    "empty list": (PAIR | {"prompt": []}, "expected text in prompt; got an empty list.\n"),
    "number": (
        PAIR | {"chosen": 7},
        "expected chosen to be text; got int 7.\n"
        "    Write it as a string, or as a list of {role, content}.",
    ),
    "content that is a number": (
        PAIR | {"prompt": [{"role": "user", "content": 2}]},
        "expected prompt[0].content to be text; got int 2.\n",
    ),
    "not a message": (
        PAIR | {"prompt": [{"from": "user", "value": "Hi"}]},
        "expected prompt[0] to be a message with role and content; got the keys from, value.\n",
    ),
    "chosen equal to rejected": (
        PAIR | {"rejected": "yes"},
        "expected a chosen response that differs from the rejected one; got twice 'yes'.\n"
        "    A pair of equals teaches nothing: remove the row",
    ),
    "unknown role": (
        PAIR | {"prompt": [{"role": "human", "content": "Is 2 a number?"}]},
        "expected the role of prompt[0] to be one of system, user, assistant, tool; got 'human'.\n"
        "    Did you mean user?",
    ),
    "prompt that is answered": (
        PAIR | {"prompt": [*USER, {"role": "assistant", "content": "yes"}]},
        "expected a prompt that ends with a user turn; got a last turn by assistant.\n",
    ),
    "special token in the text": (
        PAIR | {"chosen": "yes<|im_end|>"},
        "expected text without the tokenizer's special tokens; got <|im_end|> in a turn of the "
        "assistant",
    ),
}


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("name", ROWS)
def test_a_bad_row_is_refused_at_its_line(name, folder, capsys):
    row, wanted = ROWS[name]
    with_second_line(folder, row)
    printed = refused(folder, capsys)
    assert printed.startswith("error: train.jsonl:2: expected ")
    assert wanted in printed
    assert nothing_was_made(folder)


def test_what_is_dropped_is_counted_and_its_first_places_named(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with_second_line(folder, LONG)
    main(["prepare", str(folder / "config.py")])
    printed = capsys.readouterr().out
    assert "groups: 24; kept: 23;" in printed
    assert "1 prompt and response longer than max_length=256 (train.jsonl:2 (" in printed
