"""Every method, one file each. Adding one is one line here."""

from alignax.methods.attribute_reward_model import AttributeRewardModel
from alignax.methods.cpo import CPO
from alignax.methods.curriculum import Curriculum
from alignax.methods.decision_transformer import DecisionTransformer
from alignax.methods.dpo import DPO, RobustDPO
from alignax.methods.filtering import Filtering
from alignax.methods.ipo import IPO
from alignax.methods.kto import KTO
from alignax.methods.online_dpo import OnlineDPO
from alignax.methods.orpo import ORPO
from alignax.methods.plackett_luce import PlackettLuceDPO
from alignax.methods.pro import PRO
from alignax.methods.raft import RAFT
from alignax.methods.rejection_sampling import RejectionSampling
from alignax.methods.reward_model import RewardModel
from alignax.methods.reward_weighted import RewardWeighted
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
    DPO,
    DecisionTransformer,
    Filtering,
    Hinge,
    IPO,
    KTO,
    ORPO,
    OnlineDPO,
    PRO,
    PlackettLuceDPO,
    RAFT,
    RRHF,
    RSO,
    RejectionSampling,
    RewardModel,
    RewardWeighted,
    RobustDPO,
    SFT,
    SLiC,
    SLiCSampleRank,
    SimPO,
    SteerLM,
)
