"""Run one transaction of a user inside a unit of the journal, with every way in which it can end as an outcome."""

from amends.aggregates.errors import JournalError, UnitLost
from amends.aggregates.journal import Tx
from amends.aggregates.run.record import RunRecord
from amends.aggregates.values.error_report import raised_in_amends
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.arguments import arguments_of
from amends.sagas.engine.calls import outcome_of_error, outcome_of_result, postponement_of, unit_of_work_for
from amends.sagas.engine.decide import Work
from amends.sagas.engine.outcome import Outcome, Succeeded

__all__ = ["run_transaction"]


def run_transaction(tx: Tx, registry: Registry, record: RunRecord, due: Work) -> Outcome:
    """Run a transaction or its compensation under a savepoint of the unit, and return its outcome.

    Everything that the function wrote is rolled back, unless the outcome is a success.

    Args:
        tx: The unit's transaction.
        registry: The registry of the loaded code.
        record: The run at its head.
        due: The work that is due.

    Raises:
        CannotContinueError: The deployed code cannot make the call; nothing was run.
        JournalError: The store cannot be read or written.
        UnitLost: The whole unit has to run again.
    """
    node = record.state.plan.nodes[due.node]
    direction = due.direction
    arguments = arguments_of(registry, record, node, direction)
    try:
        with tx.unit_of_work(cause=record.run_id) as work:
            context = unit_of_work_for(record, node, direction, attempt=due.attempt, work=work)
            value = arguments.operation.function(arguments.first(), context)
            outcome = outcome_of_result(registry, node.step, direction, value)
            if not isinstance(outcome, Succeeded):
                raise _RollBackError(outcome)  # noqa: TRY301 - leaving the savepoint is the point
    except _RollBackError as rolled_back:
        return rolled_back.outcome
    except (JournalError, UnitLost) as error:
        if not raised_in_amends(error):
            return outcome_of_error(error)
        # An event that this code cannot read needs a deploy, or its row back. Any other such error comes from our own
        # infrastructure, not from the step: the whole unit runs again, and no attempt is used up.
        if isinstance(error, JournalError) and (postponed := postponement_of(error)) is not None:
            return postponed
        raise
    except BaseException as error:  # noqa: BLE001 - every way in which a step can end is an outcome of it
        return outcome_of_error(error)
    return outcome


class _RollBackError(Exception):
    """Leaves the savepoint with an outcome other than a success."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome
