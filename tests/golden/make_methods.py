"""Makes methods.json: what the authors' own trainers compute for whole methods, terms and all.

    python tests/golden/make_methods.py --rrhf train.py --pro process_manager.py

Needs torch and trl, and a copy of the two files named in `SOURCES`, which are not kept here. Of
each, only the class that has the loss is executed, on an object that has only the attributes it
reads and a model that hands out stored log-probabilities. All is float64, but for what the files
themselves cast. One list a call for RRHF, whose likelihood term is only right for one, and for PRO,
which returns a mean; five labelled responses a call for KTO, whose reference point they share.

    lists     log-probabilities and mask, [k, r]; scores, best first; length of the prompt
    labelled  log-probabilities, reference log-probabilities and mask, [b, 2, r]: own and unrelated
    cases     the method, its settings, the loss and its gradient
"""

import argparse
import ast
import collections
import contextlib
import io
import json
import math
import types
from pathlib import Path
from typing import Any

import numpy as np

TOKENS = 5
SOURCES = {
    "RRHF": "GanjinZero/RRHF 026adca7, train.py, RRHFTrainer.compute_loss",
    "PRO": "AlibabaResearch/DAMO-ConvAI 64f4da71, PRO/train/utils/process_manager.py, "
    "ProcessManager.compute_loss; its masks cut so that it scores no token after the last",
    "KTO": "trl.trainer.kto_trainer.KTOTrainer._compute_loss",
}


def masked(draw: np.random.Generator, rows: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of responses of random lengths, 0 off the mask; the mask."""
    mask = np.arange(TOKENS) < draw.integers(1, TOKENS + 1, (rows, 1))
    mask[0] = True
    return np.where(mask, -draw.exponential(scale, mask.shape) - 1e-3, 0.0).round(5), mask


def lists() -> list[dict[str, Any]]:
    """Responses to one prompt each, some better ones less probable."""
    made = []
    for seed, (k, prompt) in enumerate(((2, 3), (4, 1), (5, 2))):
        draw = np.random.default_rng(seed)
        logprobs, mask = masked(draw, k, 1.5)
        scores = np.sort(draw.standard_normal(k).round(3))[::-1]
        made.append(
            {
                "logprobs": logprobs.tolist(),
                "mask": mask.tolist(),
                "scores": scores.tolist(),
                "prompt_length": prompt,
            }
        )
    return made


def labelled() -> dict[str, Any]:
    """Five responses, each with an unrelated one; the mean log-ratio of those is above 0."""
    draw = np.random.default_rng(9)
    logprobs, mask = masked(draw, 10, 1.5)
    ref = np.where(mask, -np.abs(logprobs + draw.normal(-0.2, 0.5, mask.shape)), 0.0).round(5)
    shape = (5, 2, TOKENS)
    return {
        "logprobs": logprobs.reshape(shape).tolist(),
        "ref_logprobs": ref.reshape(shape).tolist(),
        "mask": mask.reshape(shape).tolist(),
        "desirable": [True, False, False, True, False],
    }


def class_of(path: Path, name: str, scope: dict[str, Any]) -> Any:
    """One class of a file, without the rest of it; `scope` has the names that it uses."""
    tree = ast.parse(path.read_text())
    (found,) = (x for x in tree.body if isinstance(x, ast.ClassDef) and x.name == name)
    found.bases = []
    exec(compile(ast.Module([found], []), str(path), "exec"), scope)
    return scope[name]


def main() -> None:
    import torch
    import trl
    from trl.trainer.kto_trainer import KTOTrainer

    parser = argparse.ArgumentParser()
    parser.add_argument("--rrhf", type=Path, required=True)
    parser.add_argument("--pro", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = types.SimpleNamespace()
    scope = {"torch": torch, "F": torch.nn.functional, "math": math, "args": settings}
    rrhf = class_of(given.rrhf, "RRHFTrainer", dict(scope))
    pro = class_of(given.pro, "ProcessManager", scope)

    def logits_of(logprobs: torch.Tensor) -> torch.Tensor:
        """Over two words: the log-probability of the second is the one given."""
        return torch.stack([torch.log(-torch.expm1(logprobs)), logprobs], dim=-1)

    def placed(x: torch.Tensor, prompt: int, fill: float) -> torch.Tensor:
        """Logits stand one place before the token that they are of."""
        before = torch.full((len(x), prompt - 1), fill, dtype=x.dtype)
        return torch.cat([before, x, torch.full((len(x), 1), fill, dtype=x.dtype)], dim=1)

    def of_rrhf(group: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = torch.tensor(group["logprobs"], dtype=torch.float64, requires_grad=True)
        mask = torch.tensor(group["mask"])
        prompt = group["prompt_length"]
        logits = logits_of(placed(torch.where(mask, logprobs, -0.5), prompt, -0.5))
        inputs = {
            "labels": torch.where(placed(mask, prompt, False), 1, -100),
            "scores": torch.tensor([group["scores"]], dtype=torch.float64),
        }
        options = {"only_use_provide": False, "only_use_sample": False}
        trainer = object.__new__(rrhf)
        trainer.args = types.SimpleNamespace(rrhf_weight=1.0, length_penalty=1.0, **options)
        with contextlib.redirect_stdout(io.StringIO()):
            loss = trainer.compute_loss(lambda **_: (logits,), inputs)
        loss.backward()
        return loss, logprobs.grad

    def of_pro(group: dict[str, Any], sft_weight: float) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = torch.tensor(group["logprobs"], dtype=torch.float64, requires_grad=True)
        mask = torch.tensor(group["mask"])
        prompt = group["prompt_length"]
        logits = logits_of(placed(torch.where(mask, logprobs, -0.5), prompt, -0.5))
        scored = placed(mask, prompt, False)
        batch = {
            "input_ids": torch.arange(len(mask))[None, :, None].expand(1, *scored.shape),
            "attention_mask": scored[None],
            "prefix_mask": torch.zeros_like(scored)[None],
            "labels": torch.ones_like(scored, dtype=torch.int64)[None],
            "rewards": torch.tensor([group["scores"]], dtype=torch.float64),
            "sft_index": torch.zeros(1, dtype=torch.int64),
        }

        def model(input_ids, **_):
            own = logits[input_ids[0, :1]]
            return types.SimpleNamespace(logits=own, hidden_states=[own])

        settings.sft_weight = sft_weight
        total: list[torch.Tensor] = []
        manager = object.__new__(pro)
        manager.accelerator = types.SimpleNamespace(backward=total.append)
        manager.compute_loss(model, batch, [[] for _ in mask])
        total[0].backward()
        return total[0], logprobs.grad

    def of_kto(group: dict[str, Any], **hyper: float) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = torch.tensor(group["logprobs"], dtype=torch.float64, requires_grad=True)
        ref = torch.tensor(group["ref_logprobs"], dtype=torch.float64).sum(-1)
        mask = torch.tensor(group["mask"])
        before = torch.zeros(len(mask), 1, dtype=torch.bool)
        own, other = (torch.cat([before, mask[:, i]], dim=1).long() for i in range(2))

        def model(input_ids, labels, **_):
            part = logprobs[:, input_ids[0, 0]] * (labels[:, 1:] >= 0)
            zero = torch.zeros_like(part.detach())
            return types.SimpleNamespace(log_probs=part, entropy=zero, mean_logits=zero)

        model.training = True
        same = lambda x: x  # noqa: E731
        trainer = types.SimpleNamespace(
            accelerator=types.SimpleNamespace(device="cpu", gather_for_metrics=same),
            model=model,
            calculate_KL=True,
            aux_loss_enabled=False,
            precompute_ref_logps=True,
            loss_type="kto",
            _metrics={"train": collections.defaultdict(list)},
            _total_train_tokens=0,
            _tp_size=1,
            **hyper,
        )
        trainer._compute_kl_logps = types.MethodType(KTOTrainer._compute_kl_logps, trainer)
        inputs = {
            "input_ids": torch.zeros_like(own),
            "attention_mask": torch.ones_like(own),
            "completion_mask": own,
            "KL_input_ids": torch.ones_like(other),
            "KL_attention_mask": torch.ones_like(other),
            "KL_completion_mask": other,
            "label": torch.tensor(group["desirable"]),
            "ref_logps": ref[:, 0],
            "ref_KL_logps": ref[:, 1],
        }
        loss = KTOTrainer._compute_loss(trainer, model, inputs, False)
        loss.backward()
        return loss, logprobs.grad

    def case(method: str, data: int | None, hyper: dict, found: tuple) -> dict[str, Any]:
        loss, gradient = found
        short = [[float(f"{x:.10g}") for x in row] for row in gradient.reshape(-1, TOKENS).tolist()]
        return {"method": method, "list": data, "settings": hyper, "loss": loss.item(),
                "gradient": short}  # fmt: skip

    stored: dict[str, Any] = {
        "of": SOURCES,
        "versions": f"torch {torch.__version__}, trl {trl.__version__}",
        "made_by": "tests/golden/make_methods.py",
        "lists": lists(),
        "labelled": labelled(),
    }
    cases = []
    for i, group in enumerate(stored["lists"]):
        cases.append(case("RRHF", i, {"padded_width": True}, of_rrhf(group)))
        for weight in (0.05, 2.0):
            cases.append(case("PRO", i, {"sft_weight": weight}, of_pro(group, weight)))
    for beta, good, bad in ((0.1, 1.0, 1.0), (0.5, 1.25, 0.75)):
        hyper = {"beta": beta, "desirable_weight": good, "undesirable_weight": bad}
        cases.append(case("KTO", None, hyper, of_kto(stored["labelled"], **hyper)))
    stored["cases"] = cases
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in stored.items()]
    Path(__file__).with_name("methods.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
