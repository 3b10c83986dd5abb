"""Test sagas and drift rules without a server: given / when / then, scripted effects and a virtual clock.

Import these names from here; `amends.sagas.testing` and `amends.reconciler.testing`, which define them, may move.
"""

from amends.reconciler.testing import Reconciled, RuleScenario
from amends.sagas.testing import LostReply, Scenario, Then

__all__ = ["LostReply", "Reconciled", "RuleScenario", "Scenario", "Then"]
