"""Counts the memory of a DPO step that trains a whole model, or an adapter of it.

    python -m benchmarks.adapters                      # the shape of SmolLM2-135M, 4 pairs
    python -m benchmarks.adapters --dtype bfloat16 --rank 64

Nothing is allocated and no weights are read: the arrays are counted by their shapes, and the
compiled step by what XLA says of it. Prints a table in MiB.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import tyro

from alignax.data.pipeline import Batches
from alignax.data.plan import make_plan
from alignax.methods import DPO
from alignax.models.config import DecoderConfig
from alignax.models.lora import Adapter, LoRA
from alignax.models.outputs import outputs
from alignax.models.quantised import hold, stored_bytes
from alignax.models.transformer import Decoder
from alignax.train import reference
from alignax.train.compilations import update_options
from alignax.train.optim import Optim, make_optimizer
from alignax.train.step import init_state, make_step
from benchmarks.rows import Rows
from benchmarks.shapes import Model, Shape

SMOLLM2 = DecoderConfig(
    vocab_size=49_152, width=576, layers=30, heads=9, kv_heads=3, head_dim=64, mlp_width=1536,
    max_positions=8192, tied=True,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained, and on how much."""

    rank: int = 16
    targets: tuple[str, ...] = ("all-linear",)
    dtype: Literal["float32", "bfloat16"] = "float32"
    pairs: int = 4
    prompt: int = 128
    response: int = 128


def kinds(settings: Settings) -> dict[str, LoRA | None]:
    """The rows of the table; None for the whole model."""
    lora = LoRA(rank=settings.rank, targets=settings.targets)
    bases = {
        f"LoRA, base in {base}": dataclasses.replace(lora, base=base)
        for base in ("float32", "bfloat16", "int8", "nf4")
    }
    return {"whole model": None, **bases, "DoRA, base in nf4": dataclasses.replace(
        lora, base="nf4", dora=True)}  # fmt: skip


def base_of(decoder: Decoder, adapter: Adapter) -> Any:
    """Shapes and dtypes of the base as it is held."""
    held = adapter.settings.base
    dtype = "float32" if held == "float32" else "bfloat16"
    read = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), decoder.abstract())
    return jax.eval_shape(lambda base: hold(base, adapter, held), read)


def row(decoder: Decoder, arrays: Any, reach: Any, lora: LoRA | None) -> dict[str, float]:
    """Bytes of one kind of training."""
    join, frozen, trained, axes = None, (), decoder.abstract(), decoder.axes()
    if lora is not None:
        adapter = Adapter(decoder=decoder, settings=lora)
        trained, axes = adapter.abstract(), adapter.axes()
        frozen = (base_of(decoder, adapter),)
        join = lambda params, base, key: adapter.attach(base, params, key)  # noqa: E731
    optimizer = make_optimizer(Optim(), 10, axes)
    state = jax.eval_shape(lambda params: init_state(params, optimizer), trained)
    model = functools.partial(outputs, decoder, reach=reach)
    step = jax.jit(
        make_step(DPO(), model, optimizer, join=join),
        donate_argnums=0,
        compiler_options=update_options(),
    )
    used = step.lower(state, *arrays, *frozen).compile().memory_analysis()
    params = stored_bytes(trained)
    return {
        "frozen": stored_bytes(frozen),
        "trained": params,
        "gradient": params,  # of each trained number one, float32
        "optimiser": stored_bytes(state.opt_state),
        "checkpoint": stored_bytes(state),
        "arguments": used.argument_size_in_bytes,
        "temporary": used.temp_size_in_bytes,
        # What is donated is counted once.
        "in all": used.argument_size_in_bytes + used.output_size_in_bytes
        - used.alias_size_in_bytes + used.temp_size_in_bytes,
    }  # fmt: skip


def main(settings: Settings) -> None:
    decoder = Decoder(config=SMOLLM2, dtype=settings.dtype, remat="block")
    shape = Shape(
        task="dpo",
        groups=settings.pairs,
        responses=2,
        prompt=settings.prompt,
        response=settings.response,
        model=Model(vocab=SMOLLM2.vocab_size),
    )
    pairs = Rows(shape.rows(settings.pairs))
    plan = make_plan(pairs.lengths, batch_size=settings.pairs, num_steps=1)
    table = reference.TokenArrays.empty(pairs.lengths)
    arrays = next(iter(Batches(pairs, plan, numbers={"ref_logprobs": table})))
    first = True
    for name, lora in kinds(settings).items():
        found = row(decoder, arrays, plan.shape.reach, lora)
        if first:
            print("| MiB | " + " | ".join(found) + " |")
            print("| --- |" + " --- |" * len(found))
            first = False
        print(f"| {name} | " + " | ".join(f"{x / 2**20:,.1f}" for x in found.values()) + " |",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Settings))
