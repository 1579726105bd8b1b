"""The public face: what a program that uses HetCache, or adds a mode to it, imports."""

from hetcache.core.lead import Lead
from hetcache.core.mode import Dial, Mode, NotPlannable, RunContext
from hetcache.core.residual import StackResidual
from hetcache.core.settings import setting
from hetcache.core.vocabulary import (
    Attention,
    BlockOps,
    Branch,
    CacheManager,
    Compute,
    Decision,
    Grid,
    Hidden,
    Schedule,
    Step,
    TokenPlan,
)

__all__ = [
    "Attention",
    "BlockOps",
    "Branch",
    "CacheManager",
    "Compute",
    "Decision",
    "Dial",
    "Grid",
    "Hidden",
    "Lead",
    "Mode",
    "NotPlannable",
    "RunContext",
    "Schedule",
    "StackResidual",
    "Step",
    "TokenPlan",
    "setting",
]
