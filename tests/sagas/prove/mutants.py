"""All mutants of the core, in the order of the page about them."""

from answer_mutants import ANSWER_MUTANTS
from call_mutants import CALL_MUTANTS
from order_mutants import ORDER_MUTANTS

__all__ = ["MUTANTS"]

MUTANTS = (*ORDER_MUTANTS, *CALL_MUTANTS, *ANSWER_MUTANTS)
