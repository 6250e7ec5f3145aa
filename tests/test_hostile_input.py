"""Files of strangers run no code, are read within their folder, and take bounded memory.

`python -m benchmarks fuzz` looks for what is not refused in words; what it has found is here.
"""

import json
import os
import pathlib
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.core.records import Preference, Ranking
from alignax.data.bad_rows import BadRow
from alignax.data.confined import Confined
from alignax.data.rendering import Template
from alignax.data.sources import load_records
from alignax.data.tokenizers import load_tokenizer
from alignax.generate.round_files import stored
from alignax.models import files, peft, pretrained
from alignax.models.families import from_hugging_face
from alignax.models.gguf_header import check_header
from alignax.train.integrity import damage, write_record
from benchmarks.parsers import PARSERS
from tests.tiny import chatml_tokenizer
from tests.tiny_model import model_directory

ROOT = pathlib.Path(__file__).parents[1]
PREFIX = "continuing_subword_prefix"


def test_a_slice_of_the_fuzzing_finds_nothing():
    """A few inputs to every parser, in processes of their own, as limits are of a process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "fuzz", "--inputs", "40"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Libraries that a parser calls may print lines of their own between those of the table.
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert {row[1].strip() for row in rows} == set(PARSERS), done.stdout
    assert all(int(row[2]) + int(row[3]) == 40 and int(row[4]) == 0 for row in rows)
    assert all(int(row[3]) > 0 for row in rows)


# --- Tokenizers


def test_a_panic_of_the_tokenizers_library_is_a_refusal_in_words(tmp_path):
    """Input 71,410 of the fuzzing: a prefix of every subword, where the vocabulary has none."""
    chatml_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"model": content["model"] | {PREFIX: "\u0120"}}))
    with pytest.raises(BadInput, match="a panic of the library tokenizers: slice index"):
        load_tokenizer(tmp_path)


# --- Chat templates


def rendered(text: str, confined: Confined) -> str:
    told = confined.render(text, {"messages": [{"role": "user", "content": "Hi"}]})
    assert told.text is None
    return told.error


@pytest.fixture(scope="module")
def confined():
    made = Confined(seconds=2.0)
    yield made
    made.close()


@pytest.fixture(scope="module")
def patient():
    """With time enough to ask for all memory on a machine that others share."""
    made = Confined(seconds=120.0)
    yield made
    made.close()


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10**12 }}",
        "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}"
        "{% endfor %}",
        "{{ '%1000000000000d' % 1 }}",
        "{{ 'x' | center(10**11) }}",
    ],
)
def test_a_template_that_wants_all_memory_gets_512_mib(patient, template):
    assert rendered(template, patient) == "it needs more than 512 MiB"


def test_a_template_that_never_ends_is_ended_and_the_next_one_rendered(confined):
    loop = "{% for a in x %}{% for b in x %}{% for c in x %}{% endfor %}{% endfor %}{% endfor %}"
    found = rendered("{% set x = range(99999) %}" + loop, confined)
    assert found == "it took longer than 2 seconds"
    assert rendered("{{ 10 ** (10 ** 10) }}", confined) == "it took longer than 2 seconds"
    assert confined.render("{{ 1 + 1 }}", {}).text == "2"


def test_what_was_asked_when_somebody_pressed_ctrl_c_is_not_answered_later(confined, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("alignax.data.confined.select.select", interrupted)
        with pytest.raises(KeyboardInterrupt):
            confined.render("{{ 'the first' }}", {})
    assert confined.render("{{ 'the second' }}", {}).text == "the second"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ cycler.__init__.__globals__.os.system('id') }}",
        "{% include '/etc/passwd' %}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_template_reaches_nothing_outside_the_sandbox(confined, template):
    assert rendered(template, confined)


def test_even_outside_the_sandbox_a_template_could_open_no_file():
    """What the process of templates may do is asked of it, with the sandbox taken away."""
    code = """
import sys
sys.path.insert(0, "alignax/data")
import template_process as process
def answer(request):
    try:
        return {"text": open("README.md").read()}
    except OSError as error:
        return {"error": str(error)}
process.answer = answer
process.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, input=b"{}\n", capture_output=True, check=True
    )
    assert "Too many open files" in json.loads(done.stdout)["error"]


def test_a_template_is_refused_before_any_row_is_rendered():
    template = Template(tokenizer=chatml_tokenizer(), text="{{ 'a' * 10**12 }}", options={})
    with pytest.raises(BadInput, match=r"chat template: expected .*; got .*more than 512 MiB"):
        template.check()


# --- Rows

PAIR = {"prompt": "Is 2 a number?", "chosen": "yes", "rejected": "no"}
NESTED = "[" * 100_000 + "]" * 100_000
LINES = {
    "lists too deep": ('{"prompt": ' + NESTED + "}", "maximum recursion depth exceeded"),
    "a number of too many digits": ('{"prompt": ' + "1" * 5000 + "}", "Exceeds the limit"),
    "half of a surrogate pair": (
        json.dumps(PAIR | {"prompt": "a\ud800"}),
        "expected text in prompt; got half of a surrogate pair at character 1.",
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_a_row_that_python_cannot_hold_is_refused_at_its_line(name, tmp_path):
    line, wanted = LINES[name]
    (tmp_path / "rows.jsonl").write_text(json.dumps(PAIR) + "\n" + line + "\n")
    with pytest.raises(BadInput, match=r"rows\.jsonl:2: expected") as caught:
        load_records(str(tmp_path / "rows.jsonl"), Preference)
    assert wanted in str(caught.value)


def test_a_score_beyond_the_largest_float_is_not_finite(tmp_path):
    row = {"prompt": "Is 2?", "completions": ["a", "b"], "scores": [10**400, 1]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(BadRow, match=r"expected a finite number in scores\[0\]"):
        load_records(str(tmp_path / "rows.jsonl"), Ranking)


# --- Models


@pytest.fixture
def model(tmp_path):
    return model_directory(tmp_path / "model")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", 7, []])
def test_an_index_names_files_beside_it_alone(name, model):
    index = {"weight_map": {"model.norm.weight": name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    (model / "model.safetensors").unlink()  # which would be read in place of what an index names
    with pytest.raises(BadInput, match="expected names of safetensors files beside the index"):
        files.weight_files(model)


CONFIG = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 9,
          "num_attention_heads": 2, "intermediate_size": 8}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"model_type": []}, "got []"),
        ({"num_hidden_layers": 10**9}, "expected num_hidden_layers of at most 4,096"),
        ({"hidden_size": 2**31}, "hidden_size, a number of 32 bits"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps, a positive number"),
        ({"hidden_act": {}}, "expected hidden_act, one of silu"),
        ({"architectures": 1}, "expected architectures, a list; got 1"),
        ({"layer_types": [{}]}, "expected layer_types, a list of names; got [{}]"),
        ({"rope_scaling": [1]}, "expected rope_scaling, an object; got [1]"),
    ],
)
def test_a_config_of_other_types_is_refused_by_its_key(change, wanted):
    with pytest.raises(BadInput) as caught:
        from_hugging_face(CONFIG | change, "config.json")
    assert wanted in str(caught.value)


def test_layers_that_the_files_do_not_have_are_not_counted_up(model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4096}))
    with pytest.raises(BadInput, match="a tensor or more for each of 4,096 layers and experts"):
        pretrained.load(model)


def test_a_new_head_is_drawn_only_for_a_width_that_the_files_have(model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"hidden_size": 2**31 - 8}))
    with pytest.raises(BadInput, match="expected the shape"):
        pretrained.load(model, num_scores=2**20)


def test_an_adapter_has_the_rank_that_its_config_says(tmp_path):
    from safetensors.numpy import save_file

    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: np.zeros((2, 8), np.float32)}, tmp_path / peft.WEIGHTS)
    config = {"peft_type": "LORA", "r": 10**6, "lora_alpha": 1}
    (tmp_path / peft.CONFIG).write_text(json.dumps(config))
    with pytest.raises(BadInput, match=r"of rank 1000000, as adapter_config\.json has it"):
        peft.read_settings(tmp_path)


def gguf(*parts: bytes, keys: int = 1, tensors: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + b"".join(parts)


KEY = struct.pack("<Q", 1) + b"k"


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        # What gguf itself would go on reading for ever: bytes that are not there have no size. It
        # keeps 4 arrays of a key, and of its elements one each, or two of a text.
        (gguf(KEY, struct.pack("<IIQ", 9, 0, 2**40)), "of 1,099,511,627,780 numbers and texts"),
        (gguf(KEY, struct.pack("<IIQ", 9, 8, 750_000)), "of 1,500,004 numbers and texts"),
        (gguf(KEY, struct.pack("<IIQ", 9, 0, 100)), "a header that breaks off"),
        (gguf(KEY, struct.pack("<IIQ", 9, 9, 1)), "a value of type 9 in an array"),
        (gguf(KEY, struct.pack("<IQ", 8, 2**62)), "a header that breaks off"),
        (gguf(KEY, struct.pack("<I", 99)), "a value of type 99"),
        (gguf(keys=2**60), "a header that breaks off"),
        (gguf(KEY, struct.pack("<I", 2**31), keys=0, tensors=1), "a tensor of 2147483648 dimens"),
        (b"", "an empty file"),
    ],
)
def test_counts_that_a_gguf_file_cannot_keep_are_refused_at_once(raw, wanted, tmp_path):
    (tmp_path / "m.gguf").write_bytes(raw)
    with pytest.raises(ValueError, match=wanted):
        check_header(tmp_path / "m.gguf")


# --- Runs


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret"])
def test_a_checkpoint_of_a_stranger_names_no_file_outside_it(name, tmp_path):
    from etils import epath

    (tmp_path / "file").write_text("x")
    write_record(epath.Path(tmp_path), {"position": {}, "experiment": {}, "leaves": {}})
    record = json.loads((tmp_path / "alignax.json").read_text())
    del record["crc32"]
    record["files"][name] = [1, 2]
    record["crc32"] = zlib.crc32(json.dumps(record).encode())
    (tmp_path / "alignax.json").write_text(json.dumps(record))
    found = damage(epath.Path(tmp_path))
    assert found is not None
    assert "cannot be read: no file in it with a size and a checksum" in found


def test_objects_in_a_rounds_file_are_not_made(tmp_path):
    np.savez(tmp_path / "round-0.npz", **{"0/prompt": np.array([{}, 1], object)})
    with pytest.raises(BadInput, match="allow_pickle=False"):
        stored(tmp_path / "round-0.npz")


def test_entries_of_a_rounds_file_that_are_no_arrays_are_refused(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "round-0.npz", "w") as file:
        file.writestr("0/prompt.npy", b"no array")
    with pytest.raises(BadInput, match="entries that are no arrays"):
        stored(tmp_path / "round-0.npz")


def test_arrays_in_a_rounds_file_that_say_they_are_encrypted_are_refused(tmp_path):
    path = tmp_path / "round-0.npz"
    np.savez(path, **{"0/prompt": np.zeros(3)})
    raw = bytearray(path.read_bytes())
    # Of each entry's flags, in its own header and in the list at the end, the lowest bit.
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(mark) + flags] |= 1
    path.write_bytes(raw)
    with pytest.raises(BadInput, match="encrypted"):
        stored(path)


def test_arrays_in_a_rounds_file_are_no_larger_than_it(tmp_path):
    np.savez_compressed(tmp_path / "round-0.npz", **{"0/prompt": np.zeros(10_000)})
    with pytest.raises(BadInput, match="got ValueError: arrays that are larger than their file"):
        stored(tmp_path / "round-0.npz")


def test_an_array_that_claims_more_than_all_memory_is_refused(tmp_path):
    import zipfile

    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
    raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    with zipfile.ZipFile(tmp_path / "round-0.npz", "w") as file:
        file.writestr("0/prompt.npy", raw)
    with pytest.raises(BadInput, match="expected the samples of the round"):
        stored(tmp_path / "round-0.npz")
