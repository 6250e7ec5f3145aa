"""Every pure loss and advantage, for people who compose losses in their own JAX code.

Arrays are positional and hyperparameters keyword-only. Leading axes are free. Losses are unreduced:
one number a pair or ranked list, of `nll` and `kto` one a response, of policy gradients and values
one a token. Advantages, weights and estimates are one for each number that they are made of. All
are float32 and `jit`, `grad` and `vmap` safe; gradients flow through the first array only, and
through advantages and weights not at all.

Two have another form: `generalised_advantage` gives advantages and returns; `rejection_sample`
takes a random key first, then the rewards of one prompt's candidates, and gives indices.
"""

from alignax.core.advantages import (
    generalised_advantage,
    greedy_advantage,
    group_advantage,
    leave_one_out_advantage,
    overlong_penalty,
)
from alignax.core.kl import kl_estimate
from alignax.core.policy_gradient import (
    clipped_policy_gradient,
    clipped_value,
    policy_gradient,
    sequence_clipped_policy_gradient,
)
from alignax.methods.cpo import cpo
from alignax.methods.dpo import dpo, robust_dpo
from alignax.methods.ipo import ipo
from alignax.methods.kto import kto
from alignax.methods.orpo import orpo
from alignax.methods.plackett_luce import plackett_luce
from alignax.methods.pro import pro
from alignax.methods.reward_model import bradley_terry
from alignax.methods.reward_weighted import reward_weights
from alignax.methods.rrhf import rrhf
from alignax.methods.rso import rejection_sample
from alignax.methods.sft import nll
from alignax.methods.simpo import simpo
from alignax.methods.slic import hinge, slic

__all__ = [
    "bradley_terry",
    "clipped_policy_gradient",
    "clipped_value",
    "cpo",
    "dpo",
    "generalised_advantage",
    "greedy_advantage",
    "group_advantage",
    "hinge",
    "ipo",
    "kl_estimate",
    "kto",
    "leave_one_out_advantage",
    "nll",
    "orpo",
    "overlong_penalty",
    "plackett_luce",
    "policy_gradient",
    "pro",
    "rejection_sample",
    "reward_weights",
    "robust_dpo",
    "rrhf",
    "sequence_clipped_policy_gradient",
    "simpo",
    "slic",
]
