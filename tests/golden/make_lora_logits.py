"""Makes lora_logits.npz: what peft itself computes for adapters of a tiny Llama, and writes.

    python tests/golden/make_lora_logits.py

Needs torch, transformers and peft, which nothing else here does; their versions are stored inside.
Weights are not stored: both sides make them, from the name of each tensor as peft's file has it.
The base is the case `biases` of make_llama_logits.py. For every case:

    {case}/config        adapter_config.json as peft wrote it
    {case}/shapes        of each tensor of adapter_model.safetensors, by name, as JSON
    {case}/logits        [2, 6, v] at POSITIONS, float32
    {case}/gradient/...  of the summed log-probs of the responses' tokens, for LAYER's q and down
"""

import json
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.golden.make_llama_logits import CASES as LLAMAS
from tests.golden.make_llama_logits import POSITIONS, PROMPT, tokens, weights

BASE = LLAMAS["biases"]
LAYER = "layers.1."
_ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "lora": {"r": 4, "lora_alpha": 8, "target_modules": _ALL},
    "rslora": {"r": 4, "lora_alpha": 3, "target_modules": ["q_proj", "v_proj"], "use_rslora": True},
    "dora": {"r": 4, "lora_alpha": 8, "target_modules": _ALL, "use_dora": True},
}


def adapter_weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The adapter's tensor of that name in peft's file."""
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    return (1.0 + 0.1 * draw if "magnitude" in name else 0.2 * draw).astype(np.float32)


def main() -> None:
    import peft
    import torch
    import transformers
    from safetensors.torch import load_file

    def logits(model):
        return torch.cat([model(row[None]).logits for row in torch.tensor(tokens())]).float()

    packages = (torch, transformers, peft)
    stored = {"versions": ", ".join(f"{x.__name__} {x.__version__}" for x in packages)}
    for case, settings in CASES.items():
        shape = dict(BASE)
        config = transformers.AutoConfig.for_model(shape.pop("model_type"), **shape)
        stored["base"] = json.dumps(config.to_dict())
        base = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        for name, parameter in base.named_parameters():
            parameter.data = torch.tensor(weights(name, tuple(parameter.shape)))
        model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            written = load_file(Path(folder) / "adapter_model.safetensors")
            found = json.loads((Path(folder) / "adapter_config.json").read_text())
        found["base_model_name_or_path"] = "base"
        stored[f"{case}/config"] = json.dumps(found)
        stored[f"{case}/shapes"] = json.dumps({n: list(x.shape) for n, x in written.items()})
        made = {n: torch.tensor(adapter_weights(n, tuple(x.shape))) for n, x in written.items()}
        peft.set_peft_model_state_dict(model, made)
        model.train()  # nothing is left out, and eval would cache the norms without gradients
        exact = logits(model)
        target = torch.tensor(tokens())[:, 1:, None]
        logprobs = exact.log_softmax(-1)[:, :-1].gather(-1, target)[..., 0]
        logprobs[:, PROMPT - 1 :].sum().backward()
        stored[f"{case}/logits"] = exact.detach().numpy()[:, POSITIONS]
        for name, parameter in model.named_parameters():
            in_file = name.replace(".default", "").replace("magnitude_vector.weight",
                                                           "magnitude_vector")  # fmt: skip
            if parameter.grad is None or LAYER not in name:
                continue
            if "q_proj" in name or "down_proj" in name:
                assert in_file in written, in_file
                stored[f"{case}/gradient/{in_file}"] = parameter.grad.numpy()
    np.savez_compressed(Path(__file__).with_name("lora_logits.npz"), **stored)


if __name__ == "__main__":
    main()
