"""Testing sagas and drift rules without a server: given / when / then, scripted effects and a virtual clock.

This is the public home of what `amends.sagas.testing` and `amends.reconciler.testing` define.
"""

from amends.reconciler.testing import Reconciled, RuleScenario
from amends.sagas.testing import LostReply, Scenario, Then

__all__ = ["LostReply", "Reconciled", "RuleScenario", "Scenario", "Then"]
