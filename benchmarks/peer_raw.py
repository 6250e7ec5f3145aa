"""A bare PyTorch loop: transformers' Llama, an AdamW, a loss of a few lines, and nothing around it.

    PEER/bin/python -P benchmarks/peer_raw.py JOB.json

Options of a job: `stored`, the reference's log-probabilities are computed before and not in the
step; `tail`, only the positions that predict a response meet the vocabulary; `fused`, model and
log-probabilities by `torch.compile`, cross_entropy in place of gather and logsumexp, and the fused
AdamW. Without them it is what most write. To compile takes a C++ compiler, and is not timed. With
the dtype bfloat16, autocast; parameters are float32 in any case.
"""

import copy
import functools
import json
import os
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers


def padded(rows, options, device):
    """Texts, chosen ones of all prompts first, padded on the right; mask of response tokens."""
    texts = [
        (row["prompt"], response)
        for responses in zip(*(row["responses"] for row in rows), strict=True)
        for row, response in zip(rows, responses, strict=True)
    ]
    longest = max(len(p) + len(r) for p, r in texts)
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    seen, scored = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for i, (prompt, response) in enumerate(texts):
        end = len(prompt) + len(response)
        ids[i, :end] = torch.tensor(prompt + response)
        seen[i, :end], scored[i, len(prompt) : end] = 1, True
    tail = longest - min(len(p) for p, _ in texts) if options.get("tail") else longest - 1
    seen = None if seen.all() else seen.to(device)
    return ids.to(device), seen, scored[:, -tail:].to(device), tail


def now(device):
    """The time, when the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def logprobs(model, ids, seen, scored, tail, fused=False):
    """Of each token of the tail, 0 where it is not scored: [texts, tail]."""
    logits = (
        model(input_ids=ids, attention_mask=seen, use_cache=False, logits_to_keep=tail + 1)
        .logits[:, :-1]
        .float()
    )
    target = ids[:, -tail:]
    if fused:
        lost = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), target.flatten(), reduction="none"
        )
        found = -lost.view(target.shape)
    else:
        found = logits.gather(-1, target[..., None])[..., 0] - logits.logsumexp(-1)
    return found * scored


def dpo(found, scored, reference):
    chosen, rejected = (found.sum(-1) - reference).chunk(2)
    return -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean()


def sft(found, scored, reference):
    return -found.sum() / scored.sum()


def rrhf(found, scored, reference, responses):
    summed = found.sum(-1).view(responses, -1)  # best first
    mean = (found.sum(-1) / scored.sum(-1)).view(responses, -1)
    wrong = torch.relu(mean[None] - mean[:, None])  # [better, worse, prompt]
    above = torch.ones(responses, responses, device=found.device).triu(1)[..., None]
    return ((wrong * above).sum((0, 1)) - summed[0]).mean()


def main(path):
    job = json.loads(Path(path).read_text())
    torch.set_num_threads(job["threads"])
    options, task, size = job["options"], job["task"], job["groups"]
    device = "cuda" if job["platform"] == "gpu" else "cpu"
    numbers = torch.autocast(device, torch.bfloat16, enabled=job["dtype"] == "bfloat16")
    rows = json.loads(Path(job["rows"]).read_text())
    model = transformers.AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    model.to(device).train()
    fused = options.get("fused", False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=job["learning_rate"], weight_decay=0.0, fused=fused or None
    )
    score = functools.partial(logprobs, fused=fused)
    if fused:
        score = torch.compile(score, dynamic=False)
    steps = [padded(rows[i : i + size], options, device) for i in range(0, len(rows), size)]
    stored, frozen = [None] * len(steps), None
    if task == "dpo":
        if options.get("stored"):
            with torch.no_grad(), numbers:
                stored = [score(model, *step).sum(-1) for step in steps]
        else:
            frozen = copy.deepcopy(model).requires_grad_(False)
    seconds, losses = [], []
    for step, reference in zip(steps, stored, strict=True):
        begin = now(device)
        if frozen is not None:
            with torch.no_grad(), numbers:
                reference = score(frozen, *step).sum(-1)
        with numbers:
            found, scored = score(model, *step), step[2]
        extra = {"responses": job["responses"]} if task == "rrhf" else {}
        loss = {"dpo": dpo, "sft": sft, "rrhf": rrhf}[task](found, scored, reference, **extra)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(now(device) - begin)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    found = {"seconds": seconds, "losses": losses, "versions": versions}
    if device == "cuda":
        found["device_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
