"""Explore a saga within a time budget. The only module of the search that reads a clock."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.text import shorten
from amends.sagas.definition.saga import Saga
from amends.sagas.prove.end import Invariant, judge_of
from amends.sagas.prove.experiment import Contracts, Experiment, Prepared, Results
from amends.sagas.prove.memory import Tables
from amends.sagas.prove.problem import ProveError
from amends.sagas.prove.report import Report, report_of
from amends.sagas.prove.runtime.repeated import check_repeatable
from amends.sagas.prove.runtime.watch import Watch
from amends.sagas.prove.search import Search
from amends.sagas.prove.story import Story, story_of
from amends.sagas.prove.token import ReplayToken

__all__ = ["SECONDS", "Progress", "experiment_of", "explore", "replay", "replay_in", "run_experiment"]

I = TypeVar("I")  # noqa: E741 - the input, as in every signature here

_SHOWN_EVERY_S = 0.1

SECONDS = 60.0
"""The time budget of a search, unless its caller names another one."""

Progress = Callable[[int, float], None]
"""Takes the number of explored states and the part of the time budget that is spent, every few states."""


def explore(
    saga: Saga[I],
    input: I,  # noqa: A002 - the word that sagas use
    *,
    invariant: Invariant | None = None,
    always: Invariant | None = None,
    given: Sequence[object] = (),
    tables: object | None = None,
    others: Sequence[tuple[Saga[Any], Any]] = (),
    faults: int = 2,
    operators: int = 0,
    contracts: Contracts | None = None,
    results: Results | None = None,
    seconds: float = SECONDS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Explore every way in which a run can fail, and return a report.

    Args:
        saga: The saga.
        input: The input of the run.
        invariant: Your own law, checked at every end; it raises if the end is wrong. `None` for none.
        always: The same, checked in every state.
        given: Aggregates that exist before the run, and statements that insert rows into `tables`.
        tables: Your own tables, as SQLAlchemy's `MetaData`; the search keeps them in an SQLite database in memory.
            `None` if there are none.
        others: Further runs in the same world, each a saga and its input; they share aggregates and participants.
        faults: The number of faults in one story.
        operators: The number of decisions that operators may make in one story.
        contracts: Contracts to explore in place of those that the participants declare, by participant or its name.
        results: Results of steps in place of their functions, by step; an exception is raised.
        seconds: The time budget. When 70 % of it are spent, random stories follow, and the report says "sampled".
        seed: The seed of random stories.
        progress: Shows the progress; `None` for none.

    Returns:
        The report; its `holds` is false if a story breaks a law.

    Raises:
        InputError: The input, a contract or a result does not fit, or a function of the saga cannot be explored.
        DefinitionError: The saga has a fault.
    """
    experiment = experiment_of(saga, input, given=given, tables=tables, others=others, results=results)
    bounded = replace(experiment, faults=faults, operators=operators, contracts=contracts or {})
    return run_experiment(
        bounded.prepare(),
        invariant=invariant,
        always=always,
        budget=timedelta(seconds=seconds),
        seed=seed,
        progress=progress,
    )


def run_experiment(
    prepared: Prepared,
    *,
    invariant: Invariant | None = None,
    always: Invariant | None = None,
    budget: timedelta = timedelta(seconds=SECONDS),
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Explore a prepared experiment within a time budget.

    Raises:
        ProveError: The budget is not positive, or a function of the saga cannot be explored.
    """
    bound_s = budget.total_seconds()
    if bound_s <= 0:
        raise ProveError(f"seconds={bound_s:g}: give a budget of more than 0 s")
    watch = prepared.registry.watch = Watch()
    check_repeatable(prepared.registry, prepared.player, prepared.root)
    began = shown = time.monotonic()

    def spent(states: int) -> float:
        nonlocal shown
        now = time.monotonic()
        if progress is not None and now - shown >= _SHOWN_EVERY_S:
            shown = now
            progress(states, (now - began) / bound_s)
        return (now - began) / bound_s

    search = Search(prepared.player, judge=judge_of(invariant), always=judge_of(always), budget=spent, seed=seed)
    explored = search.explore(prepared.root)
    if explored.complete < 0 and not explored.violations:
        raise ProveError(
            f"seconds={bound_s:g}: the time was over before the stories without a fault were explored, and "
            f"{watch.slowest()}; give more seconds, or replace slow steps: results={{step: a result}}"
        )
    return report_of(prepared, explored, seed=seed)


def replay(
    token: str,
    saga: Saga[I],
    input: I,  # noqa: A002 - the word that sagas use
    *,
    given: Sequence[object] = (),
    tables: object | None = None,
    others: Sequence[tuple[Saga[Any], Any]] = (),
    results: Results | None = None,
) -> Story:
    """Play the story of a token again; faults, operators and contracts come from the token.

    Args:
        token: The token of a report.
        saga: The saga, as for `explore`.
        input: Its input, as for `explore`.
        given: As for `explore`.
        tables: As for `explore`.
        others: As for `explore`.
        results: As for `explore`.

    Raises:
        InputError: The text is no token, or it belongs to another saga or input.
    """
    return replay_in(experiment_of(saga, input, given=given, tables=tables, others=others, results=results), token)


def replay_in(experiment: Experiment, token: str) -> Story:
    """Play the story of a token again; faults, operators and contracts come from the token.

    Args:
        experiment: The saga with its input and the place where its run begins.
        token: The token of a report.

    Raises:
        InputError: The text is no token, or it belongs to another saga or input.
    """
    read = ReplayToken.read(token)
    prepared = Prepared.of_token(experiment, read)
    return story_of(prepared.player, prepared.root, read.path)


def experiment_of(
    saga: Saga[I],
    input: I,  # noqa: A002 - the word that sagas use
    *,
    given: Sequence[object] = (),
    tables: object | None = None,
    others: Sequence[tuple[Saga[Any], Any]] = (),
    results: Results | None = None,
) -> Experiment:
    """Return the experiment for arguments of `explore`, with the default bounds.

    Args:
        saga: As for `explore`.
        input: As for `explore`.
        given: As for `explore`.
        tables: As for `explore`.
        others: As for `explore`.
        results: As for `explore`.

    Raises:
        ProveError: The tables, the aggregates or the statements do not fit.
    """
    return Experiment(
        saga=saga,
        input=input,
        others=others,
        given=_aggregates(given, tables),
        tables=_tables(given, tables),
        results=results or {},
    )


def _aggregates(given: Sequence[object], tables: object | None) -> list[Aggregate]:
    aggregates = [each for each in given if isinstance(each, Aggregate)]
    others = [each for each in given if not isinstance(each, Aggregate)]
    if others and tables is None:
        raise ProveError(
            f"given=[{shorten(others[0])}]: give aggregates, such as StockItem('teapot', free=10); "
            f"a statement that inserts rows needs tables=your MetaData"
        )
    return aggregates


def _tables(given: Sequence[object], tables: object | None) -> Tables | None:
    if tables is None:
        return None
    # SQLAlchemy takes a while to load, and most sagas have no tables of their own.
    from amends.sagas.prove.sql.tables import create_tables  # noqa: PLC0415 - as said above

    return create_tables(tables, [each for each in given if not isinstance(each, Aggregate)])
