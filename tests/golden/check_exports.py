"""Checks with transformers itself that what we write is what it reads, for every family.

    python tests/golden/check_exports.py write /tmp/exports     # where alignax is installed
    python tests/golden/check_exports.py read /tmp/exports      # where torch and transformers are

The first makes each tiny model of family_logits.npz and score_logits.npz by its stored weights,
loads it and exports it. The second loads the exports, warnings of missing or unexpected tensors
being errors, and compares logits and scores with those stored. What it printed last stands in
docs/models.md.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.golden import make_family_logits as family
from tests.golden import make_llama_logits as llama
from tests.golden import make_score_logits as scores

GOLDEN = np.load(Path(__file__).with_name("family_logits.npz"))
SCORES = np.load(Path(__file__).with_name("score_logits.npz"))


def export(directory: Path, case: str, config: dict, shapes: Mapping[str, tuple[int, ...]]):
    """What we write of a model that we have read."""
    from safetensors.numpy import save_file

    from alignax.models import pretrained

    source = directory / "published" / case
    source.mkdir(parents=True)
    made = {name: family.weights(case, name, shape) for name, shape in shapes.items()}
    save_file(made, source / "model.safetensors", metadata={"format": "pt"})
    (source / "config.json").write_text(json.dumps(config))
    found = pretrained.load(source)
    pretrained.save(directory / case, found.params, found.config, source=source)


def write(directory: Path) -> None:
    from alignax.models.families import from_hugging_face, tensor_shapes

    configs, tensors = (json.loads(str(GOLDEN[name])) for name in ("configs", "tensors"))
    for case, config in configs.items():
        export(directory, case, config, {name: tuple(s) for name, s in tensors[case].items()})
    for case, config in json.loads(str(SCORES["configs"])).items():
        shapes = tensor_shapes(from_hugging_face(config, case), config["model_type"])
        export(directory / "classifiers", case, config, shapes)


def read(directory: Path) -> None:
    import torch
    import transformers

    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    for case in json.loads(str(GOLDEN["configs"])):
        model, about = transformers.AutoModelForCausalLM.from_pretrained(
            directory / case, attn_implementation="eager", output_loading_info=True
        )
        wrong = {kind: list(names) for kind, names in about.items() if names}
        assert not wrong, (case, wrong)
        rows = torch.tensor(llama.tokens())
        with torch.no_grad():
            logits = torch.cat([model(row[None]).logits for row in rows])[:, llama.POSITIONS]
        error = np.abs(logits.numpy() - GOLDEN[f"{case}/logits"]).max()
        print(f"{case:24} {type(model).__name__:36} {error:.1e}")
        assert error < 1e-5, case
    for case, config in json.loads(str(SCORES["configs"])).items():
        found = scores.logits(directory / "classifiers" / case)
        error = np.abs(found - SCORES[f"{case}/logits"]).max()
        print(f"{case:24} {config['architectures'][0]:36} {error:.1e}")
        assert error < 1e-5, case


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("job", choices=("write", "read"))
    parser.add_argument("directory", type=Path)
    given = parser.parse_args()
    {"write": write, "read": read}[given.job](given.directory)
