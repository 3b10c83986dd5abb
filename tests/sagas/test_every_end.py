"""Every way in which user code can end is recorded: at every place, by both drivers, on both databases."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import NoReturn

import pytest
import temporalio.client
from bounds import HANG

from amends import (
    Attempted,
    Call,
    Client,
    Done,
    Rejected,
    Retry,
    Runner,
    Saga,
    UnitOfWork,
    UnreachableError,
    effect,
    transaction,
)
from amends.aggregates.errors import JournalError, UnitLost
from amends.aggregates.journal import StepWork
from amends.aggregates.run.fact import FailureFact
from amends.aggregates.run.facts import StepRejected
from amends.aggregates.sql.engine import create_store_engine
from amends.aggregates.sql.journal import SqlJournal, open_journal
from amends.aggregates.sql.migrations import upgrade
from amends.reconciler.drift.drift import Cause, Command, Drift, DriftKind
from amends.reconciler.drift.observation import Observation
from amends.reconciler.drift.rule import Rule, RuleFunction, drift_rule
from amends.reconciler.drift.stream import Reconciliation
from amends.reconciler.runtime.reconciler import Reconciler
from amends.sagas.definition.registry import Registry
from amends.sagas.temporal.worker import running_worker

ONCE = Retry(max_attempts=2, first=timedelta(milliseconds=1), factor=1)


class UnshownError(Exception):
    """An error whose message needs an attribute that was never set."""

    def __str__(self) -> str:
        return str(self.detail)  # type: ignore[attr-defined]  # that is the fault


class OddError(BaseException):
    """An error that is not an `Exception`."""


class CodedRejected(Rejected):
    """A refusal whose author forgot `super().__init__`."""

    def __init__(self, code: int) -> None:
        self.code = code


class NoClassError(Exception):
    """An error whose `__class__` raises, as a careless proxy does."""

    @property  # type: ignore[misc]  # the fault that this class stands for
    def __class__(self) -> type:
        raise AttributeError("lost")


class NoAttributesRejected(Rejected):
    """A refusal none of whose attributes can be read."""

    def __getattribute__(self, name: str) -> object:
        raise SystemExit(name)


ENDS: dict[str, Callable[[], BaseException]] = {
    "UnshownError": UnshownError,
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "CancelledError": asyncio.CancelledError,
    "GeneratorExit": GeneratorExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": lambda: SystemExit(3),
    "OddError": OddError,
    "UnreachableError": lambda: UnreachableError("as ours"),
    "JournalError": lambda: JournalError("as ours"),
    "UnitLost": UnitLost,
    "NoClassError": NoClassError,
    "ExceptionGroup": lambda: ExceptionGroup("g", [ValueError("lost"), Rejected("no")]),
}
"""Ends that are failed attempts, by the class that the journal names."""

REFUSALS: dict[str, Callable[[], BaseException]] = {
    "Rejected": Rejected,
    "NoAttributesRejected": NoAttributesRejected,
    "CodedRejected": lambda: CodedRejected(4031),
    "Rejected(None)": lambda: Rejected(None),  # type: ignore[arg-type]  # as users do
    "in a group": lambda: ExceptionGroup("g", [Rejected("no")]),
}
"""Ends that are refusals, in every form."""


def end(name: str) -> NoReturn:
    """End in one of these ways."""
    error = (ENDS | REFUSALS)[name]()
    raise error


def ends_at(plot: str, place: str) -> None:
    """End when the plot names this place."""
    where, _, how = plot.partition("/")
    if where == place:
        end(how)


@transaction(retry=ONCE)
def note(plot: str, _: UnitOfWork) -> None:
    """Act in our store."""
    ends_at(plot, "transaction")


@note.compensation(retry=ONCE)
def unnote(done: Done[str, None], _: UnitOfWork) -> None:
    """Undo the effect."""
    ends_at(done.input, "undo of a transaction")


@effect(retry=ONCE)
async def act(plot: str, _: Call) -> str:
    """Act outside of our store."""
    ends_at(plot, "effect")
    if plot.startswith("probe"):
        raise TimeoutError
    return "acted"


@act.probe
async def acted(plot: str, _: Call) -> str | None:
    """Ask whether the effect happened."""
    ends_at(plot, "probe")
    return "acted"


@act.compensation(retry=ONCE)
async def unact(tried: Attempted[str, str], _: Call) -> None:
    """Undo the effect."""
    ends_at(tried.input, "undo")


@effect(retry=ONCE)
def do(plot: str, _: Call) -> str:
    """Act outside of our store, in a plain function."""
    ends_at(plot, "def effect")
    if plot.startswith("def probe"):
        raise TimeoutError
    return "done"


@do.probe
def done(plot: str, _: Call) -> str | None:
    """Ask whether the effect happened, in a plain function."""
    ends_at(plot, "def probe")
    return "done"


@do.compensation(retry=ONCE)
def undo(tried: Attempted[str, str], _: Call) -> None:
    """Undo the effect, in a plain function."""
    ends_at(tried.input, "def undo")


def mapped(plot: str) -> str:
    """Create the last step's input."""
    ends_at(plot, "mapping")
    return plot


@transaction(retry=ONCE)
def close(plot: str, _: UnitOfWork) -> None:
    """Refuse, where the plot needs an undo."""
    if "undo" in plot:
        raise Rejected("turn round")


@close.compensation
def unclose(done: Done[str, None], _: UnitOfWork) -> None:
    """Do nothing: there is no effect to undo."""


SAGA = Saga("every-end", str, note, act, do, close.using(mapped))
NODES = {
    "transaction": "note",
    "undo of a transaction": "note",
    "mapping": "close",
    "effect": "act",
    "undo": "act",
    "probe": "act",
    "def effect": "do",
    "def undo": "do",
    "def probe": "do",
}
"""Places in which user code of a saga can end, and the node of each."""

FORWARD = ("transaction", "mapping", "effect", "def effect")
"""Places that can refuse."""

COROUTINES = ("effect", "undo", "probe")
"""Places that are `async def`."""

PLOTS = [
    *(f"{place}/{end}" for place in NODES for end in ENDS),
    *(f"{place}/{end}" for place in FORWARD for end in REFUSALS),
]

SOME_PLOTS = [
    *(f"{place}/{end}" for at, place in enumerate(NODES) for to, end in enumerate(ENDS) if (at + to) % 4 == 0),
    *(f"{place}/{end}" for at, place in enumerate(FORWARD) for to, end in enumerate(REFUSALS) if (at + to) % 2 == 0),
]
"""Plots with every place and every end, but not with every pair of them."""


@pytest.fixture
async def journal(store_url: str) -> AsyncIterator[SqlJournal]:
    """Yield an empty store, of each kind."""
    if store_url.startswith("postgresql"):
        engine = create_store_engine(store_url)
        upgrade(engine)
        engine.dispose()
    opened = open_journal(store_url)
    yield opened
    await opened.close()


async def by_runner(journal: SqlJournal, plot: str) -> str:
    """Run a plot in this process."""
    return (await Runner(journal, Registry([SAGA])).run(SAGA, plot)).run_id


async def wrong(journal: SqlJournal, run_id: str, plot: str) -> str | None:
    """Return the fault in the record of a run; `None` when the record is complete."""
    place, _, how = plot.partition("/")
    node = [fact for fact in await journal.facts(run_id) if getattr(fact, "node", "") == NODES[place]]
    failures = [fact for fact in node if isinstance(fact, FailureFact)]
    if how in REFUSALS:
        refused = [fact for fact in node if isinstance(fact, StepRejected)]
        return None if refused and not failures else f"{plot}: {[fact.kind for fact in node]}"
    # Python itself turns this error into another before it leaves a coroutine; the trace names both.
    named = "RuntimeError" if how == "StopIteration" and place in COROUTINES else how
    ends = [fact for fact in failures if fact.error_type == named and how in " ".join(fact.trace)]
    if len(ends) != ONCE.max_attempts:
        return f"{plot}: {[(fact.kind, fact.error_type) for fact in failures]}"
    placed = all("test_every_end.py" in " ".join(fact.trace) for fact in ends)
    return None if placed else f"{plot}: {[fact.trace for fact in ends]}"


async def test_every_end_is_recorded_in_process(journal: SqlJournal) -> None:
    """The journal has the class and the place of each failed attempt at once, for every end at every place."""
    runs = await asyncio.gather(*(by_runner(journal, plot) for plot in PLOTS))
    found = [await wrong(journal, run_id, plot) for run_id, plot in zip(runs, PLOTS, strict=True)]
    assert [each for each in found if each is not None] == []


@pytest.mark.parametrize(
    ("store_url", "plots"),
    [
        pytest.param("sqlite", SOME_PLOTS, id="sqlite-some"),
        pytest.param("sqlite", PLOTS, id="sqlite-all", marks=pytest.mark.soak),
        pytest.param("postgresql", PLOTS, id="postgresql-all", marks=pytest.mark.soak),
    ],
    indirect=["store_url"],
)
async def test_every_end_is_recorded_on_temporal(journal: SqlJournal, temporal_address: str, plots: list[str]) -> None:
    """The same holds on Temporal, where one worker survives all ends."""
    temporal = await temporalio.client.Client.connect(temporal_address)
    registry, queue = Registry([SAGA]), f"every-end-{journal.store_id}"
    async with running_worker(temporal, journal, registry, task_queue=queue):
        client = Client(journal, temporal, registry, task_queue=queue)

        async def by_worker(plot: str) -> str:
            handle = await client.start(SAGA, plot, id=f"{queue}-{plots.index(plot)}")
            await handle.result(timeout=HANG)
            return handle.id

        runs = await asyncio.gather(*(by_worker(plot) for plot in plots))
    found = [await wrong(journal, run_id, plot) for run_id, plot in zip(runs, plots, strict=True)]
    assert [each for each in found if each is not None] == []


# ---- drift rules and corrections


class Idle:
    """An aggregate that does nothing outside of the journal."""

    async def wake(self, run_id: str) -> None:
        """Do nothing."""

    async def rebuild(self, runs: Sequence[str] = ()) -> None:
        """Do nothing."""


def rule_that_ends(kind: str, how: str) -> Rule:
    """Create a drift rule of a kind that ends in some way."""

    def plain(_: Observation) -> list[Drift]:
        end(how)

    async def coroutine(_: Observation) -> list[Drift]:
        end(how)

    async def generator(_: Observation) -> AsyncIterator[Drift]:
        end(how)
        yield Drift(subject="s", kind=DriftKind.MISSING, expected="e", actual=None)

    functions: dict[str, RuleFunction] = {"plain": plain, "coroutine": coroutine, "generator": generator}
    function = functions[kind]
    return drift_rule("odd", every=timedelta(hours=1))(function)


@pytest.mark.parametrize("kind", ["plain", "coroutine", "generator"])
async def test_every_end_of_a_drift_rule_is_recorded(journal: SqlJournal, kind: str) -> None:
    """Every end of a rule fails its scan; the rule's stream has the class, and the next scan runs."""
    journal.codec.register(Reconciliation)
    by = Reconciler(journal, Registry([]), Idle(), clock=lambda: 1_000, actor="test", driven={})
    found = []
    for how in ENDS:
        said = (await by.scan(rule_that_ends(kind, how))).rule_state.unobservable or ""
        # Python itself turns these into a RuntimeError before they leave a coroutine or a generator.
        turned = kind != "plain" and how in {"StopIteration", "StopAsyncIteration"} and said.startswith("RuntimeError")
        found += [] if said.startswith(how) or turned else [f"{how}: {said}"]
    assert found == []


def correct(how: str, _: Cause, __: StepWork) -> None:
    """Correct nothing."""
    end(how)


async def test_every_end_of_a_correction_is_recorded(journal: SqlJournal) -> None:
    """The rule's stream has the class of every end of a correction, and the committer continues."""
    journal.codec.register(Reconciliation)
    now_ms = 1_000
    by = Reconciler(journal, Registry([]), Idle(), clock=lambda: now_ms, actor="test", driven={})

    @drift_rule("wrong", every=timedelta(hours=1), mode="apply", confirm_after=timedelta(0))
    def wrong(_: Observation) -> list[Drift]:
        """Find a difference for each way to end."""
        return [
            Drift(subject=how, kind=DriftKind.MISSING, expected="e", actual=None, correction=Command(correct, how))
            for how in ENDS
        ]

    await by.scan(wrong)
    now_ms += 60_000
    verdict = await by.scan(wrong)
    made = [await by.correct(wrong, name, verdict.seen[name]) for name in verdict.due]
    assert sorted(each.subject for each in made) == sorted(ENDS)
    assert [each for each in made if not (each.problem or "").startswith(each.subject)] == []
