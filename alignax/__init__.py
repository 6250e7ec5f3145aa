"""Train language models from preferences and rewards in JAX, without the long PPO chain.

Methods are values (`alignax.methods`), losses are pure functions (`alignax.losses`), and a run is
a pure function of an `Experiment` and its seed.
"""

from importlib import metadata
from typing import Any

__version__ = metadata.version("alignax")

# Where each public name lives. They are imported when first asked for, so that `alignax --help`
# and `from alignax import losses` do not wait for what they do not need.
_HOME = {
    "AttributeRewardModel": "alignax.methods",
    "Attributed": "alignax.core.records",
    "BadInput": "alignax.core.errors",
    "Batch": "alignax.core.types",
    "CPO": "alignax.methods",
    "Comparison": "alignax.compare.settings",
    "Curriculum": "alignax.methods",
    "DAPO": "alignax.methods",
    "DPO": "alignax.methods",
    "Data": "alignax.config",
    "DecisionTransformer": "alignax.methods",
    "Decoder": "alignax.models.transformer",
    "DecoderConfig": "alignax.models.config",
    "Demonstration": "alignax.core.records",
    "DrGRPO": "alignax.methods",
    "Engine": "alignax.generate.engine",
    "Entry": "alignax.compare.settings",
    "Evaluation": "alignax.config",
    "Experiment": "alignax.config",
    "Filtering": "alignax.methods",
    "Format": "alignax.generate.reward_rules",
    "Function": "alignax.generate.reward_functions",
    "GRPO": "alignax.methods",
    "GSPO": "alignax.methods",
    "Group": "alignax.core.records",
    "Hinge": "alignax.methods",
    "IPO": "alignax.methods",
    "KTO": "alignax.methods",
    "Labelled": "alignax.core.records",
    "LeftOut": "alignax.core.records",
    "Length": "alignax.generate.reward_rules",
    "Lexicon": "alignax.generate.lexicon",
    "LoRA": "alignax.models.lora",
    "Loop": "alignax.train.loop",
    "Match": "alignax.generate.reward_rules",
    "Mesh": "alignax.train.sharding",
    "Method": "alignax.core.method",
    "Metrics": "alignax.core.types",
    "Model": "alignax.config",
    "ModelReward": "alignax.generate.reward_models",
    "Needs": "alignax.core.method",
    "NumberAnswer": "alignax.generate.reward_rules",
    "ORPO": "alignax.methods",
    "OnlineDPO": "alignax.methods",
    "Optim": "alignax.train.optim",
    "Outputs": "alignax.core.types",
    "Overlong": "alignax.generate.reward_rules",
    "PPO": "alignax.methods",
    "PRO": "alignax.methods",
    "PlackettLuceDPO": "alignax.methods",
    "Preference": "alignax.core.records",
    "Prompt": "alignax.core.records",
    "RAFT": "alignax.methods",
    "REINFORCE": "alignax.methods",
    "RLOO": "alignax.methods",
    "RRHF": "alignax.methods",
    "RSO": "alignax.methods",
    "Ranking": "alignax.core.records",
    "ReMax": "alignax.methods",
    "Record": "alignax.core.records",
    "RejectionSampling": "alignax.methods",
    "RewardModel": "alignax.methods",
    "RewardWeighted": "alignax.methods",
    "Rewards": "alignax.generate.rewards",
    "RobustDPO": "alignax.methods",
    "Rollout": "alignax.generate.rollout",
    "SFT": "alignax.methods",
    "SLiC": "alignax.methods",
    "SLiCSampleRank": "alignax.methods",
    "Sampler": "alignax.generate.sampler",
    "Sampling": "alignax.core.method",
    "Scalar": "alignax.core.types",
    "Scored": "alignax.core.records",
    "Server": "alignax.generate.server",
    "SimPO": "alignax.methods",
    "SteerLM": "alignax.methods",
    "TokenLimits": "alignax.data.tokenise",
    "setting": "alignax.core.setting_types",
}
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'alignax' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
