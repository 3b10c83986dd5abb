"""Shared parts of the commands about drift: the drift rules, and the store and Temporal that they scan with."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from amends.aggregates.errors import DefinitionError, InputError, NotFoundError, UnreachableError
from amends.aggregates.run.fact import TEMPORAL_DRIVER
from amends.aggregates.text import shorten
from amends.cli.project.settings import Settings
from amends.cli.runtime.store import codec_of
from amends.cli.runtime.wiring import Project, load_project
from amends.reconciler.drift.facts import ReconciliationFact
from amends.reconciler.drift.rule import Rule
from amends.reconciler.drift.stream import Reconciliation
from amends.sagas.definition.registry import Registry

if TYPE_CHECKING:
    from temporalio.client import Client

    from amends.aggregates.sql.journal import SqlJournal

__all__ = [
    "RecordedFact",
    "RuleContext",
    "TemporalCorrections",
    "chosen",
    "latest_first",
    "now_ms",
    "project_of",
    "recorded_rules",
    "registry_of",
    "rule_and_scan",
    "rule_context",
    "rule_named",
    "rules_of",
]

_PATIENCE = timedelta(seconds=5)
_PAGE = 500


class RecordedFact(NamedTuple):
    """A fact of a reconciliation, as it stands in the journal.

    Attributes:
        rule: The rule whose stream holds the fact.
        position: The position in that stream.
        fact: The fact.
    """

    rule: str
    position: int
    fact: ReconciliationFact


@dataclass(frozen=True)
class RuleContext:
    """The rules and the systems that they scan.

    Attributes:
        rules: Every rule, by name: the built-in ones, then the project's.
        client: Temporal; `None` if it cannot be reached.
        driven: Runs whose workflow runs; `None` if Temporal does not answer.
        problem: Why Temporal cannot be reached; `None` if it can.
    """

    rules: Mapping[str, Rule]
    client: "Client | None"
    driven: Mapping[str, str] | None
    problem: str | None


async def rule_context(settings: Settings, journal: "SqlJournal", project: Project | None) -> RuleContext:
    """Find the rules, and Temporal if it can be reached; start nothing.

    Raises:
        DefinitionError: Two rules have the same name.
    """
    from amends.cli.runtime.temporal import NOTHING_RUNS, probe_temporal  # noqa: PLC0415 - imports Temporal
    from amends.reconciler.rules.temporal import driven_runs  # noqa: PLC0415 - as above

    reach = await probe_temporal(settings, _PATIENCE)
    nothing_runs = reach.problem == NOTHING_RUNS
    rules = rules_of(settings, journal, project, reach.client, reach.problem or "", nothing_runs=nothing_runs)
    driven = None if reach.client is None else await driven_runs(reach.client, settings.task_queue)
    return RuleContext(rules, reach.client, {} if nothing_runs else driven, reach.problem)


def rules_of(
    settings: Settings,
    journal: "SqlJournal",
    project: Project | None,
    client: "Client | None" = None,
    problem: str = "",
    *,
    nothing_runs: bool = False,
) -> dict[str, Rule]:
    """Return every rule by its name: the built-in ones, then the project's.

    Args:
        settings: The settings.
        journal: The store.
        project: The user's modules; `None` for the built-in rules only.
        client: Temporal; `None` if it cannot be reached.
        problem: Why it cannot be reached.
        nothing_runs: Whether it is certain that no Temporal runs.

    Raises:
        DefinitionError: Two rules have the same name.
    """
    from amends.reconciler.rules.pipelines import pipeline_rules  # noqa: PLC0415 - few commands need them
    from amends.reconciler.rules.runs import run_rules  # noqa: PLC0415 - as above
    from amends.reconciler.rules.sql import store_rules  # noqa: PLC0415 - imports the database
    from amends.reconciler.rules.temporal import drive_rules  # noqa: PLC0415 - imports Temporal

    codec = codec_of(project.aggregates if project is not None else ())
    built_in = [
        *store_rules(journal.engine, codec),
        *run_rules(None if project is None else project.registry, driver=TEMPORAL_DRIVER),
        *pipeline_rules(() if project is None else sorted(project.pipelines.names)),
        *drive_rules(client, problem, task_queue=settings.task_queue, nothing_runs=nothing_runs),
    ]
    rules = {each.name: each for each in built_in}
    for rule in () if project is None else (*project.loaded.collect(Rule).values(), *project.rules):
        if rule.name in rules:
            raise DefinitionError(f"drift rule {rule.name!r} has the name of another or a built-in one; rename it")
        rules[rule.name] = rule
    return rules


def rule_named(settings: Settings, journal: "SqlJournal", project: Project | None, name: str) -> Rule:
    """Return a rule by its name, without a query to Temporal.

    Raises:
        NotFoundError: The rule does not exist.
        DefinitionError: Two rules have the same name.
    """
    (rule,) = chosen(rules_of(settings, journal, project), [name])
    return rule


def chosen(rules: Mapping[str, Rule], names: Sequence[str]) -> list[Rule]:
    """Return the rules with these names; all rules if there are no names.

    Raises:
        NotFoundError: A rule does not exist.
    """
    for name in names:
        if name not in rules:
            raise NotFoundError(f"there is no drift rule {shorten(name)}; there are: {', '.join(rules)}")
    return [rules[name] for name in dict.fromkeys(names or rules)]


def project_of(settings: Settings) -> Project | None:
    """Load the project's modules; return `None` if none are configured, which leaves the built-in rules."""
    return load_project(settings) if settings.modules else None


def registry_of(project: Project | None) -> Registry:
    """Return the project's registry; an empty one without a project."""
    return Registry((), ()) if project is None else project.registry


def now_ms() -> int:
    """Return the wall time, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def rule_and_scan(text: str) -> tuple[str, int]:
    """Read the id of a reconciliation: its rule and the number of its scan.

    Raises:
        InputError: The text is no such id.
    """
    rule, colon, number = text.rpartition(":")
    if not colon or not number.isdecimal() or not number.isascii():
        raise InputError(f"{shorten(text)} is not the id of a reconciliation; ids look like read-model:7")
    return rule, int(number)


class TemporalCorrections:
    """Corrections outside of the journal's transactions.

    Args:
        journal: The store.
        client: Temporal; `None` if it cannot be reached.
        task_queue: Queue of the workers.
    """

    def __init__(self, journal: "SqlJournal", client: "Client | None", task_queue: str) -> None:
        self._journal = journal
        self._client = client
        self._task_queue = task_queue

    async def wake(self, run_id: str) -> None:
        """Wake a run; start its workflow if none runs.

        Raises:
            UnreachableError: Temporal cannot be reached.
            NotFoundError: The run does not exist.
        """
        from amends.sagas.temporal.start_workflow import wake  # noqa: PLC0415 - imports Temporal

        record = await self._journal.record(run_id)
        if record is None:
            raise NotFoundError(f"there is no run {run_id!r} to continue")
        if self._client is None:
            raise UnreachableError(f"run {run_id!r} cannot be started: Temporal cannot be reached; start a worker")
        await wake(self._client, record, task_queue=self._task_queue)

    async def rebuild(self, runs: Sequence[str] = ()) -> None:
        """Rebuild the read model.

        Args:
            runs: The runs whose rows are rebuilt; empty for all of them.

        Raises:
            UnreachableError: The store cannot be reached.
            InputError: One of `runs` cannot be read; its row stays as it is. A rebuild of all rows leaves out runs that
                cannot be read.
        """
        from amends.aggregates.sql.rebuild_index import rebuild_index, rebuild_runs  # noqa: PLC0415 - imports the database

        engine, codec = self._journal.engine, self._journal.codec
        if runs:
            done = await asyncio.to_thread(rebuild_runs, engine, codec, runs)
        else:
            done = await asyncio.to_thread(rebuild_index, engine, codec)
        if runs and done.skipped:
            first = done.skipped[0]
            raise InputError(f"{len(done.skipped)} runs cannot be read, first {first.subject}: {first.message}")


def recorded_rules(journal: "SqlJournal") -> list[str]:
    """Return the names of the rules that have a stream, including those that no longer exist."""
    prefix = Reconciliation.stream_of("x")[:-1]
    return [stream.removeprefix(prefix) for stream in journal.streams_blocking(Reconciliation.category())]


def latest_first(journal: "SqlJournal", rule: str) -> Iterator[RecordedFact]:
    """Yield the facts of a rule from the last to the first, page by page."""
    journal.codec.register(Reconciliation)
    opened = journal.load_blocking(Reconciliation, rule)
    last = 0 if opened is None else opened.version
    while last > 0:
        after = max(0, last - _PAGE)
        for stored in reversed(journal.events_blocking(Reconciliation.stream_of(rule), after, last - after)):
            # The event that opens the stream holds no fact.
            if stored.originator_version > 1:
                yield RecordedFact(rule, stored.originator_version, journal.codec.to_domain(stored).fact)
        last = after
