"""Sampling: 16 prompts x 4 samples of SmolLM2-135M, in float32, beside transformers' `generate`.

    python benchmarks/sampling.py --lengths equal          # ours; or mix
    PEER/bin/python benchmarks/sampling.py --peer --lengths equal    # transformers, its own python

Prompts are the conversations of hh_helpful's first test rows. With --lengths equal every response
has 64 tokens; with mix each is as long as a real response of that data set, 128 tokens at most, and
the same ones for both programs. Nothing ends by itself. The bound, with --bound, is the larger of
arithmetic over the rate of a large matrix product and of bytes over the rate of reading memory,
both measured in the same process, summed over prefill and steps: of a step, every response that
is still going for arithmetic, and for bytes the weights and their caches, each prompt's once.
"""

import argparse
import gzip
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
DATA = ROOT / ".." / "shared" / "data" / "hh_helpful" / "test.jsonl.gz"
PROMPTS, SAMPLES, EQUAL, LONGEST = 16, 4, 64, 128


def workload(tokenizer, lengths: str) -> tuple[list[list[int]], np.ndarray]:
    """Prompts as token ids, and the length of each response."""
    with gzip.open(DATA, "rt") as file:
        rows = [json.loads(line) for line in file][: PROMPTS * SAMPLES]
    turn = "<|im_start|>{role}\n{content}<|im_end|>\n"
    texts = [
        "".join(turn.format(**message) for message in row["prompt"]) + "<|im_start|>assistant\n"
        for row in rows[:PROMPTS]
    ]
    prompts = [tokenizer.encode(text) for text in texts]
    counts = [len(tokenizer.encode(row["chosen"][-1]["content"])) + 1 for row in rows]
    mix = np.minimum(np.array(counts).reshape(PROMPTS, SAMPLES), LONGEST)
    return prompts, np.full_like(mix, EQUAL) if lengths == "equal" else mix


def ours(directory: str, options) -> None:
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", ".cache/jax")
    import jax

    from alignax.data.tokenizers import load_tokenizer
    from alignax.generate.engine import Engine
    from alignax.generate.sampler import Sampler
    from alignax.models import pretrained
    from alignax.models.transformer import Decoder

    tokenizer = load_tokenizer(Path(directory))
    prompts, limits = workload(tokenizer, options.lengths)
    model = pretrained.load(directory)
    engine = Engine(
        model=Decoder(config=model.config),
        sampler=Sampler(num_samples=SAMPLES, max_new_tokens=int(limits.max())),
        end_ids=(-1,),
        slots=options.slots,
        width=options.width,
    )
    arrays = [np.array(prompt, np.int32) for prompt in prompts]

    def run(seed: int) -> float:
        begin = time.perf_counter()
        drawn = engine(model.params, jax.random.key(seed), arrays, range(PROMPTS), limits=limits)
        assert (drawn.lengths == limits).all()
        return time.perf_counter() - begin

    run(0)
    report(options, [run(seed) for seed in range(1, options.repeats + 1)], prompts, limits)
    if options.bound:
        bound(model.config, prompts, limits)


def bound(config, prompts, limits) -> None:
    """Prints what the machine allows."""
    import jax
    import jax.numpy as jnp

    def fastest(function, *arrays) -> float:
        function(*arrays).block_until_ready()
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            function(*arrays).block_until_ready()
            times.append(time.perf_counter() - begin)
        return min(times)

    square = jnp.ones((2048, 2048))
    rate = 2 * 2048**3 / fastest(jax.jit(jnp.matmul), square, square)
    table = jnp.ones((2**27,))
    bandwidth = table.nbytes / fastest(jax.jit(jnp.sum), table)
    trunk = Decoder(config=config).num_params - config.vocab_size * config.width
    head = config.vocab_size * config.width
    kv = 2 * config.layers * config.kv_heads * config.head_dim * 4  # bytes a token
    pair = 4 * config.layers * config.heads * config.head_dim  # operations for each token seen
    sizes = np.array([len(p) for p in prompts])
    flops = 2 * trunk * sizes.sum() + pair * (sizes * (sizes + 1) / 2).sum()
    total = max(flops / rate, 4 * trunk / bandwidth)
    print(f"  prefill {total:.2f} s", file=sys.stderr)
    for step in range(int(limits.max())):
        active = limits > step
        flops = active.sum() * 2 * (trunk + head) + pair * (active * (sizes[:, None] + step)).sum()
        read = 4 * (trunk + head) + kv * (sizes[active.any(axis=1)].sum() + active.sum() * step)
        arithmetic, memory = flops / rate, read / bandwidth
        total += max(arithmetic, memory)
    print(
        f"bound {total:.2f} s at {rate / 1e9:.0f} GFLOP/s and {bandwidth / 1e9:.1f} GB/s",
        flush=True,
    )


def peer(directory: str, options) -> None:
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count() or 1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, padding_side="left")
    prompts, limits = workload(tokenizer, options.lengths)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model.eval()
    wide = max(map(len, prompts))
    ids = torch.tensor([[0] * (wide - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (wide - len(p)) + [1] * len(p) for p in prompts])
    ends = torch.tensor(limits.ravel())

    class AtLength(transformers.StoppingCriteria):
        def __call__(self, input_ids, scores, **_):
            return ends <= input_ids.shape[1] - wide

    def run(seed: int) -> float:
        torch.manual_seed(seed)
        begin = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                num_return_sequences=SAMPLES,
                max_new_tokens=int(limits.max()),
                min_new_tokens=int(limits.max()),
                stopping_criteria=[AtLength()],
                pad_token_id=2,
            )
        return time.perf_counter() - begin

    run(0) if options.warm else None
    report(options, [run(seed) for seed in range(1, options.repeats + 1)], prompts, limits)


def report(options, times: list[float], prompts, limits) -> None:
    print(
        f"{'transformers' if options.peer else 'alignax'}, {options.lengths} lengths: "
        f"{statistics.median(times):.2f} s (fastest {min(times):.2f}), "
        f"{limits.sum() / statistics.median(times):.0f} tokens/s; prompts of "
        f"{min(map(len, prompts))} to {max(map(len, prompts))} tokens, responses of "
        f"{limits.min()} to {limits.max()}, mean {limits.mean():.1f}",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="weights/SmolLM2-135M-Instruct")
    parser.add_argument("--lengths", choices=("equal", "mix"), default="equal")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--width", type=int, default=None)
    parser.add_argument("--bound", action="store_true")
    parser.add_argument("--warm", action="store_true")
    parser.add_argument("--peer", action="store_true")
    given = parser.parse_args()
    (peer if given.peer else ours)(given.model, given)
