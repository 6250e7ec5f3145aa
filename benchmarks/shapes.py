"""What is timed: models, batches and lengths by name, and the rows of tokens that fill them.

Lengths are a full box, where no program pads, or those of real data: `hh_helpful_lengths.json` has
tokens of prompt, chosen and rejected answer of the first 48 preference pairs of Anthropic's
helpful dialogues with at most 512 tokens, in SmolLM2's tokenizer and chat template. Numbers only.
Tokens are random, and nothing that is timed depends on which they are.
"""

import dataclasses
import json
from pathlib import Path
from typing import Literal

import numpy as np

Task = Literal["dpo", "sft", "reward", "rrhf", "pro", "grpo", "remax"]
END = 2  # ends every response
SPECIAL = 4  # ids below this mean something: padding, beginning, END, unknown
REAL = Path(__file__).with_name("hh_helpful_lengths.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A Llama.

    Fields:
        tied: the output matrix is the embedding, and not its own.
    """

    layers: int = 4
    width: int = 256
    heads: int = 4
    kv_heads: int = 4
    mlp_width: int = 688
    vocab: int = 32_000
    tied: bool = False

    @property
    def block_params(self) -> int:
        """Numbers in the matrices of one block."""
        kv_width = self.width // self.heads * self.kv_heads
        return 2 * self.width * (self.width + kv_width) + 3 * self.width * self.mlp_width

    @property
    def block_sides(self) -> int:
        """Inputs and outputs of the seven matrices of one block, together."""
        kv_width = self.width // self.heads * self.kv_heads
        return 4 * self.width + 2 * (self.width + kv_width) + 3 * (self.width + self.mlp_width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """One update.

    Fields:
        task: what is learnt.
        groups: prompts in a step. responses: to each.
        prompt, response: tokens of each, END included; for `grpo` and `remax` the response is
            drawn. Those of real pairs where None.
        adapter: train a LoRA of rank 16 on all matrices of the blocks, and not the model.
        by_name: it is run only when it is asked for by its name.
    """

    task: Task
    groups: int
    responses: int
    prompt: int | None = 128
    response: int | None = 128
    adapter: bool = False
    model: Model = Model()
    by_name: bool = False

    def lengths(self, count: int) -> np.ndarray:
        """Tokens of the prompt and of each response, [count, 1 + responses].

        Real ones begin again where they end; a single response is the chosen one.

        Raises:
            ValueError: more responses than the real prompts have.
        """
        if self.prompt is None or self.response is None:
            real = np.array(json.loads(REAL.read_text()))
            if self.responses >= real.shape[1]:
                raise ValueError(
                    f"expected at most {real.shape[1] - 1} responses of real lengths to a prompt; "
                    f"got {self.responses}; give the shape a prompt and a response length"
                )
            return np.resize(real[:, : 1 + self.responses], (count, 1 + self.responses))
        return np.tile([self.prompt] + [self.response] * self.responses, (count, 1))

    def rows(self, count: int, seed: int = 0) -> list[dict]:
        """Prompts and responses as token ids, best response first; scores from responses - 1."""
        generator = np.random.default_rng(seed)

        def tokens(length: int) -> list[int]:
            return generator.integers(SPECIAL, self.model.vocab, length).tolist()

        scores = list(range(self.responses - 1, -1, -1))
        return [
            {
                "prompt": tokens(prompt),
                "responses": [[*tokens(length - 1), END] for length in responses],
                "scores": scores,
            }
            for prompt, *responses in self.lengths(count).tolist()
        ]

    def tokens(self, steps: int) -> dict[str, int]:
        """Tokens of so many steps: of prompts taken once, of responses, of concatenated texts."""
        prompt, responses = np.split(self.lengths(steps * self.groups), [1], axis=1)
        return {
            "prompts": int(prompt.sum()),
            "responses": int(responses.sum()),
            "concatenated": int((prompt + responses).sum()),
        }


# As Llama 3.2 has them.
LLAMA_1B = Model(layers=16, width=2048, heads=32, kv_heads=8, mlp_width=8192, vocab=128_256,
                 tied=True)  # fmt: skip
LLAMA_3B = Model(layers=28, width=3072, heads=24, kv_heads=8, mlp_width=8192, vocab=128_256,
                 tied=True)  # fmt: skip
SHAPES: dict[str, Shape] = {
    "dpo 1:1": Shape(task="dpo", groups=4, responses=2),
    "dpo 4:1": Shape(task="dpo", groups=4, responses=2, prompt=128, response=32),
    "dpo real lengths": Shape(task="dpo", groups=4, responses=2, prompt=None, response=None),
    "dpo 1:1 lora": Shape(task="dpo", groups=4, responses=2, adapter=True),
    "dpo real lengths lora": Shape(
        task="dpo", groups=4, responses=2, prompt=None, response=None, adapter=True
    ),
    "rrhf k=6 4:1": Shape(task="rrhf", groups=2, responses=6, prompt=256, response=64),
    "pro k=6 1:1": Shape(task="pro", groups=2, responses=6, prompt=64, response=64),
    "sft 1:1": Shape(task="sft", groups=8, responses=1),
    "sft real lengths": Shape(task="sft", groups=8, responses=1, prompt=None, response=None),
    "reward 1:1": Shape(task="reward", groups=4, responses=2),
    "reward real lengths": Shape(task="reward", groups=4, responses=2, prompt=None, response=None),
    "grpo k=4": Shape(task="grpo", groups=4, responses=4, prompt=64, response=64),
    "remax": Shape(task="remax", groups=8, responses=2, prompt=64, response=64),
    # For one GPU: parameters, gradients and AdamW's two averages of the second are 51 GB.
    "dpo 1k 1b": Shape(task="dpo", groups=4, responses=2, prompt=1024, response=1024,
                       model=LLAMA_1B, by_name=True),
    "dpo 1k 3b": Shape(task="dpo", groups=2, responses=2, prompt=1024, response=1024,
                       model=LLAMA_3B, by_name=True),
}  # fmt: skip
TINY = Model(layers=2, width=32, heads=2, kv_heads=2, mlp_width=64, vocab=256)
