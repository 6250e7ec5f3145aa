"""The samples of `sample` by transformers' `generate`, all in one batch, padded on the left.

    PEER/bin/python -P benchmarks/peer_transformers.py JOB.json

Each response stops at its own length, and the batch when the last has. A drawing of a few tokens
warms it up: nothing is compiled, so a whole one would warm no more. (This library's side compiles
by what is drawn, and has a whole one.) In bfloat16 the weights are too: for drawing nothing needs
them in float32, and autocast would make them anew for every token.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers

WARMUP = 4  # tokens of every response


def main(path):
    job = json.loads(Path(path).read_text())
    torch.set_num_threads(job["threads"])
    gpu = job["platform"] == "gpu"
    device, dtype = "cuda" if gpu else "cpu", getattr(torch, job["dtype"])
    model = transformers.AutoModelForCausalLM.from_pretrained(job["model"], dtype=dtype)
    model.to(device).eval()
    prompts, limits = job["prompts"], torch.tensor(job["limits"])
    wide, longest = max(map(len, prompts)), int(limits.max())
    ids = torch.tensor([[0] * (wide - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (wide - len(p)) + [1] * len(p) for p in prompts], device=device)
    ends = limits.ravel().to(device)

    def now():
        if gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    class AtLength(transformers.StoppingCriteria):
        def __call__(self, input_ids, scores, **_):
            return ends <= input_ids.shape[1] - wide

    def draw(seed, most=longest):
        torch.manual_seed(seed)
        begin = now()
        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                num_return_sequences=limits.shape[1],
                max_new_tokens=most,
                min_new_tokens=most,
                stopping_criteria=[AtLength()],
                pad_token_id=0,
            )
        return now() - begin

    draw(0, WARMUP)
    seconds = [draw(seed) for seed in range(1, job["repeats"] + 1)]
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    found = {"seconds": seconds, "versions": versions}
    if gpu:
        found["device_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
