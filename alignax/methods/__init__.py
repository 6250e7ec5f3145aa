"""Every method, one file each. Adding one is one line here."""

from alignax.methods.cpo import CPO
from alignax.methods.dpo import DPO, RobustDPO
from alignax.methods.ipo import IPO
from alignax.methods.orpo import ORPO
from alignax.methods.sft import SFT
from alignax.methods.simpo import SimPO
from alignax.methods.slic import Hinge, SLiC

ALL = (CPO, DPO, Hinge, IPO, ORPO, RobustDPO, SFT, SLiC, SimPO)
