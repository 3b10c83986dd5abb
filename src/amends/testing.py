"""Test sagas, pipelines and drift rules without a server: given / when / then, scripted effects and a virtual clock.

`prove` explores every way in which a run can fail. Import these names from here; the modules that define them, such as
`amends.sagas.testing`, may move.
"""

from amends.pipelines.testing.scenario import PipelineScenario
from amends.reconciler.testing import Reconciled, RuleScenario
from amends.sagas.prove.end import End
from amends.sagas.prove.runtime.proof import BrokenLawError, prove
from amends.sagas.testing import LostReply, Scenario, Then

__all__ = [
    "BrokenLawError",
    "End",
    "LostReply",
    "PipelineScenario",
    "Reconciled",
    "RuleScenario",
    "Scenario",
    "Then",
    "prove",
]
