"""Constrained answers: which tokens may come next, so that the text becomes what was asked for.

    grammar    a constraint as llguidance's grammar
    trial      a grammar compiled in a process of its own first, where it can do no harm
    compiler   compiled constraints, kept for those who ask again
    guide      one answer's place in its constraint
    masks      the tokens that may come next, found in a thread while the model computes
    constraints what an engine has of all this, made when it is first asked for

llguidance tells which tokens lead on (https://github.com/guidance-ai/llguidance). It is imported
when a constraint is first used: engines without any do not pay for it.
"""

from .constraints import Constraints
from .guide import Guide
from .masks import Masks
from .trial import check_constraint

__all__ = ["Constraints", "Guide", "Masks", "check_constraint"]
