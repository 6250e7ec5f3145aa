"""Every method, one file each. Adding one is one line here."""

from alignax.methods.attribute_reward_model import AttributeRewardModel
from alignax.methods.cpo import CPO
from alignax.methods.curriculum import Curriculum
from alignax.methods.dapo import DAPO
from alignax.methods.decision_transformer import DecisionTransformer
from alignax.methods.dpo import DPO, RobustDPO
from alignax.methods.dr_grpo import DrGRPO
from alignax.methods.filtering import Filtering
from alignax.methods.grpo import GRPO
from alignax.methods.gspo import GSPO
from alignax.methods.ipo import IPO
from alignax.methods.kto import KTO
from alignax.methods.online_dpo import OnlineDPO
from alignax.methods.orpo import ORPO
from alignax.methods.plackett_luce import PlackettLuceDPO
from alignax.methods.ppo import PPO
from alignax.methods.pro import PRO
from alignax.methods.raft import RAFT
from alignax.methods.reinforce import REINFORCE
from alignax.methods.rejection_sampling import RejectionSampling
from alignax.methods.remax import ReMax
from alignax.methods.reward_model import RewardModel
from alignax.methods.reward_weighted import RewardWeighted
from alignax.methods.rloo import RLOO
from alignax.methods.rrhf import RRHF
from alignax.methods.rso import RSO
from alignax.methods.sft import SFT
from alignax.methods.simpo import SimPO
from alignax.methods.slic import Hinge, SLiC
from alignax.methods.slic_sample_rank import SLiCSampleRank
from alignax.methods.steerlm import SteerLM

ALL = (
    AttributeRewardModel,
    CPO,
    Curriculum,
    DAPO,
    DPO,
    DecisionTransformer,
    DrGRPO,
    Filtering,
    GRPO,
    GSPO,
    Hinge,
    IPO,
    KTO,
    ORPO,
    OnlineDPO,
    PlackettLuceDPO,
    PPO,
    PRO,
    RAFT,
    REINFORCE,
    RejectionSampling,
    ReMax,
    RLOO,
    RRHF,
    RSO,
    RewardModel,
    RewardWeighted,
    RobustDPO,
    SFT,
    SLiC,
    SLiCSampleRank,
    SimPO,
    SteerLM,
)
