"""The tiny comparison, cut down to what a test has time for."""

from pathlib import Path

TINY = Path(__file__).parents[2] / "configs" / "compare_tiny.py"
# A config file: one method for data and one for samples, two trials, two updates.
SMALL = f"""
import dataclasses

from alignax import Mesh, config
from alignax.compare.settings import Comparison


def comparison():
    whole = config.load_as({str(TINY)!r}, Comparison, example="")
    loop = dataclasses.replace(whole.base.loop, max_steps=2, eval_steps=1, batch_size=4)
    optim = dataclasses.replace(whole.base.optim, warmup_steps=1)
    base = dataclasses.replace(whole.base, loop=loop, optim=optim, mesh=Mesh(data=1))
    proxy_loop = dataclasses.replace(whole.proxy.loop, max_steps=2, batch_size=8)
    names = ("dpo", "grpo", "dpo, shuffled labels")
    return dataclasses.replace(
        whole,
        base=base,
        proxy=dataclasses.replace(whole.proxy, loop=proxy_loop, mesh=Mesh(data=1)),
        entries=tuple(
            dataclasses.replace(entry, trials=entry.trials[:2])
            for entry in whole.entries
            if entry.name in names
        ),
        claims=(),
        tuning_seeds=1,
        seeds=4,
        answers=4,
        most_updates=4,
        workers=1,
    )
"""
