"""`amends pipeline run`: the partitions of one pipeline in this process, without ownership through Temporal.

The command claims each partition with a token greater than that in the store, so a worker that owns it commits nothing
more; and a worker that takes it back ends the command. It therefore refuses a partition that a worker owns, as far as
Temporal answers. A pipeline that starts runs needs Temporal, and this process then serves the sagas as `amends run`
does.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from amends.aggregates.errors import RefusedError
from amends.aggregates.intake import Counts, HeldKind, Token
from amends.aggregates.journal import RunQuery
from amends.aggregates.run.state import RunStatus
from amends.cli.exit_codes import ExitCode, exit_code_of
from amends.cli.runtime.operator import actor_name
from amends.cli.runtime.pipeline_commands.decisions import declare_pipeline
from amends.cli.runtime.pipeline_commands.opened import answer_of, loop_of, open_source
from amends.cli.runtime.signals import Stop
from amends.cli.runtime.wiring import Project, close_store, open_store
from amends.pipelines.definition.pipeline import Pipeline, Starts
from amends.pipelines.runtime.partition_work import OwnedKind
from amends.pipelines.runtime.slice_end import EndKind, SliceEnd

if TYPE_CHECKING:
    from amends.aggregates.sql.journal import SqlJournal
    from amends.pipelines.runtime.partition_loop import PartitionLoop
    from amends.pipelines.runtime.partition_slice import OnStarted
    from amends.pipelines.source import SourceConnection

__all__ = ["RunHere", "RunSummary", "run_here"]

_LOOK_S = 0.2
_REACH = timedelta(seconds=2)
_UNFINISHED = frozenset({RunStatus.RUNNING, RunStatus.CANCELLING, RunStatus.COMPENSATING})


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The result of `amends pipeline run`.

    Attributes:
        before: The sums of all commits before.
        after: The sums of all commits after.
        held: The number of messages that the pipeline holds, without deferred ones.
        paused: The reason for which it is paused; empty if it is not.
        partitions: The number of partitions.
    """

    before: Counts
    after: Counts
    held: int
    paused: str
    partitions: int

    @property
    def code(self) -> ExitCode:
        """The exit status."""
        return ExitCode.NEEDS_ATTENTION if self.held or self.paused else ExitCode.OK


@dataclass(frozen=True, slots=True)
class RunHere:
    """The request of the command line.

    Attributes:
        project: The project.
        pipeline: The pipeline.
        until_end: Whether to end when every message that the source has is taken.
    """

    project: Project
    pipeline: Pipeline[Any]
    until_end: bool


async def run_here(request: RunHere, stop: Stop, on_ready: Callable[[], None]) -> RunSummary:
    """Run a pipeline in this process until its end, or until the request to stop.

    Raises:
        RefusedError: The definition differs from the declared one, or a worker owns a partition.
        SourceSetupError: The source does not exist, or refuses the credentials.
        UnreachableError: The store, the source or Temporal does not answer.
        FencedError: Another process has taken a partition.
    """
    project, name = request.project, request.pipeline.name
    journal = await asyncio.to_thread(open_store, project.settings, project.aggregates)
    try:
        declare_pipeline(journal, project, name, actor=actor_name(None))
        before = _totals(journal, name)
        async with (
            open_source(project.settings, request.pipeline, store_id=journal.store_id) as source,
            _driving(request, journal, stop) as on_started,
        ):
            partitions = await answer_of(request.pipeline, source.partitions())
            await _refuse_owned(request, journal, list(partitions))
            loop = loop_of(project, journal, request.pipeline, source, on_started)
            stop.ready()
            on_ready()
            ends = await _run_all(request, journal, loop, source, stop)
            if request.until_end and isinstance(request.pipeline.work, Starts):
                await _until_runs_end(journal, request.pipeline.work.saga.name, stop)
        paused = next((end.reason for end in ends if end.kind is EndKind.PAUSED), "")
        held = journal.intake.held_counts(name)
        return RunSummary(
            before=before,
            after=_totals(journal, name),
            held=sum(count for kind, count in held.items() if kind is not HeldKind.DEFERRED),
            paused=paused,
            partitions=len(ends),
        )
    except Exception as error:
        stop.ends_with(exit_code_of(error))
        raise
    finally:
        await close_store(journal, stop)


async def _run_all(
    request: RunHere, journal: "SqlJournal", loop: "PartitionLoop", source: "SourceConnection", stop: Stop
) -> list[SliceEnd]:
    """Run a task for each partition, and for those that appear later; the first error or pause ends all of them."""
    halt = asyncio.Event()
    tasks: dict[str, asyncio.Task[SliceEnd]] = {}
    stopping = asyncio.create_task(stop.requested.wait())
    try:
        while True:
            for partition in await source.partitions():
                if partition not in tasks:
                    token = _next_token(journal, request.pipeline.name, partition)
                    work = loop.run(partition, token, stop=halt, until_end=request.until_end)
                    tasks[partition] = asyncio.create_task(work)
            await asyncio.wait([*tasks.values(), stopping], timeout=_LOOK_S, return_when=asyncio.FIRST_EXCEPTION)
            if stopping.done() or _ended(tasks, until_end=request.until_end):
                break
        halt.set()
        return list(await asyncio.gather(*tasks.values()))
    finally:
        halt.set()
        stopping.cancel()
        await asyncio.gather(*tasks.values(), stopping, return_exceptions=True)


def _ended(tasks: dict[str, "asyncio.Task[SliceEnd]"], *, until_end: bool) -> bool:
    """Check whether nothing is left to do, or one of the tasks failed or found the pipeline paused."""
    done = [task for task in tasks.values() if task.done()]
    if any(task.exception() is not None or task.result().kind is EndKind.PAUSED for task in done):
        return True
    return until_end and len(done) == len(tasks)


def _next_token(journal: "SqlJournal", name: str, partition: str) -> Token:
    position = journal.intake.position(name, partition)
    return Token(1 if position is None else position.token.slice + 1, 1)


async def _refuse_owned(request: RunHere, journal: "SqlJournal", partitions: list[str]) -> None:
    """Check that no worker owns one of the partitions, as far as Temporal answers.

    Raises:
        RefusedError: A worker owns one.
    """
    from amends.cli.runtime.temporal import probe_temporal  # noqa: PLC0415 - imports Temporal

    client = (await probe_temporal(request.project.settings, _REACH)).client
    if client is None:
        return
    from amends.pipelines.temporal.owners import Owners  # noqa: PLC0415 - as above

    owners, name = Owners(client, journal.store_id), request.pipeline.name
    for partition in partitions:
        owner = await owners.of(OwnedKind.PIPELINE, name, partition)
        if owner:
            raise RefusedError(
                f"worker {owner} owns partition {partition!r} of pipeline {name!r}; it takes the messages, or stop it "
                "first"
            )


@asynccontextmanager
async def _driving(request: RunHere, journal: "SqlJournal", stop: Stop) -> "AsyncIterator[OnStarted | None]":
    """Serve the sagas in this process while the context lasts, if the pipeline starts runs."""
    work = request.pipeline.work
    if not isinstance(work, Starts):
        yield None
        return
    from amends.cli.runtime.wiring import use_temporal  # noqa: PLC0415 - imports Temporal
    from amends.cli.runtime.worker import serve  # noqa: PLC0415 - as above
    from amends.pipelines.temporal.run_starts import RunStarts  # noqa: PLC0415 - as above

    settings = request.project.settings
    async with AsyncExitStack() as stack:
        temporal = await stack.enter_async_context(use_temporal(settings, stop=stop))
        await stack.enter_async_context(serve(request.project, journal, temporal, stop, files=False))
        starts = RunStarts(
            temporal.client, saga=work.saga.name, store_id=journal.store_id, task_queue=settings.task_queue
        )
        await stack.enter_async_context(starts.running())
        yield starts


async def _until_runs_end(journal: "SqlJournal", saga: str, stop: Stop) -> None:
    """Wait until no run of the saga goes on; runs that wait for an operator do not count."""
    query = RunQuery(statuses=_UNFINISHED, saga=saga, limit=1)
    while not stop.requested.is_set() and await journal.runs(query):
        try:
            async with asyncio.timeout(_LOOK_S):
                await stop.requested.wait()
        except TimeoutError:
            continue


def _totals(journal: "SqlJournal", name: str) -> Counts:
    totals = list(journal.intake.totals(name).values())
    return Counts(**{each: sum(getattr(counts, each) for counts in totals) for each in Counts.__dataclass_fields__})
