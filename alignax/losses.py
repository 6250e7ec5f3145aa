"""Every pure loss, for people who compose losses in their own JAX code.

Arrays are positional and hyperparameters keyword-only. Leading axes are free. Results are one
number a prompt (or a token, where said), float32, in nats and unreduced. Each function is `jit`,
`grad` and `vmap` safe; gradients flow through the first array only.
"""

from alignax.methods.dpo import dpo as dpo
from alignax.methods.sft import nll as nll

__all__ = ["dpo", "nll"]
