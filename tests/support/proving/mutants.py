"""All mutants of the core, in the order of the page about them."""

from proving.answer_mutants import ANSWER_MUTANTS
from proving.call_mutants import CALL_MUTANTS
from proving.deploy_mutants import DEPLOY_MUTANTS
from proving.order_mutants import ORDER_MUTANTS

__all__ = ["MUTANTS"]

MUTANTS = (*ORDER_MUTANTS, *CALL_MUTANTS, *ANSWER_MUTANTS, *DEPLOY_MUTANTS)
