"""The end of a story, as the user's invariant sees it. Pure."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from amends.aggregates.errors import NotFoundError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.run.state import RunStatus
from amends.aggregates.values.error_report import text_of
from amends.sagas.definition.context import ResultSource
from amends.sagas.definition.steps import Step
from amends.sagas.engine.result import RunResult
from amends.sagas.prove.laws import INVARIANT, Broken
from amends.sagas.prove.values import fork_aggregate
from amends.sagas.prove.world import World

__all__ = ["End", "Invariant", "judge_of"]

A = TypeVar("A", bound=Aggregate)
R = TypeVar("R")


class End:
    """A world in which every run has ended, with the aggregates, the tables and the participants' books.

    `always=` gets the same in every world, also while runs are open.

    Args:
        world: The world.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def runs(self) -> tuple[RunResult, ...]:
        """The runs, in the order in which they were started."""
        return tuple(RunResult(record) for record in self._world.runs)

    @property
    def run(self) -> RunResult:
        """The first run, which is the only one unless you asked for two."""
        return RunResult(self._world.runs[0])

    @property
    def completed(self) -> bool:
        """Whether the first run has completed."""
        return self._is(RunStatus.COMPLETED)

    @property
    def compensated(self) -> bool:
        """Whether the first run was compensated."""
        return self._is(RunStatus.COMPENSATED)

    @property
    def needs_attention(self) -> bool:
        """Whether the first run waits for an operator."""
        return self._is(RunStatus.NEEDS_ATTENTION)

    def _is(self, status: RunStatus) -> bool:
        return self._world.runs[0].state.status is status

    def aggregate(self, cls: type[A], id: str) -> A:  # noqa: A002 - the word that aggregates use
        """Return an aggregate as the runs left it.

        Raises:
            NotFoundError: There is no such aggregate.
        """
        found = self.find(cls, id)
        if found is None:
            raise NotFoundError(f"there is no {cls.__name__} {id!r} at this end; use find(), or given=[...]")
        return found

    def find(self, cls: type[A], id: str) -> A | None:  # noqa: A002 - the word that aggregates use
        """Return an aggregate as the runs left it, or `None` when there is none."""
        kept = self._world.shelf.kept.get(cls.stream_of(id))
        if kept is None:
            return None
        aggregate = fork_aggregate(kept.aggregate)
        return aggregate if isinstance(aggregate, cls) else None

    def rows(self, statement: object) -> Sequence[tuple[Any, ...]]:
        """Return the rows that a statement reads from your own tables.

        Raises:
            NotFoundError: The search has no tables.
        """
        if self._world.shelf.tables is None:
            raise NotFoundError("this search has no tables; pass tables=your MetaData")
        return self._world.shelf.tables.execute(statement)[0]

    def result_of(self, step: ResultSource[R], run: int = 0) -> R | None:
        """Return the result of a step; `None` if it has not succeeded.

        Args:
            step: The step.
            run: Index of the run.
        """
        return RunResult(self._world.runs[run]).result_of(step)

    def standing(self, step: Step[Any, Any] | str, run: int = 0) -> int:
        """Return the number of effects of a step that took place and were not undone, as the participant's books say.

        Args:
            step: The step, or the name of its node.
            run: Index of the run.
        """
        name = step if isinstance(step, str) else step.name
        return sum(page.standing for page in self._world.books.of(run, name))


Invariant = Callable[[End], object]
"""A user's own law: it raises, such as by `assert`, if the end is wrong."""


def judge_of(invariant: Invariant | None) -> Callable[[World], Broken | None] | None:
    """Return the check of an invariant; `None` if there is none."""
    if invariant is None:
        return None

    def judge(world: World) -> Broken | None:
        try:
            invariant(End(world))
        except Exception as error:  # noqa: BLE001 - whatever the user's function raises
            text = text_of(error).strip()
            return Broken(INVARIANT, f"{type(error).__name__}: {text}" if text else type(error).__name__)
        return None

    return judge
