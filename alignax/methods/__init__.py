"""Every method, one file each. Adding one is one line here."""

from alignax.methods.dpo import DPO
from alignax.methods.sft import SFT

ALL = (DPO, SFT)
