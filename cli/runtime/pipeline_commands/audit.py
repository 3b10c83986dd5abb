"""Audit pipelines: the account of their commits, and on request their effects against the source's own list of ids."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amends.cli.output.answer import busy
from amends.cli.project.settings import Settings
from amends.cli.runtime.pipeline_commands.opened import answer_of, known_names, open_source
from amends.cli.runtime.store import open_for_reading
from amends.cli.runtime.wiring import load_project
from amends.pipelines.control.comparison import SourceAudit
from amends.pipelines.control.state import PipelineControl
from amends.pipelines.definition.pipeline import Pipeline
from amends.pipelines.intake.audit import PartitionAudit
from amends.pipelines.intake.whole_account import audit_account
from amends.pipelines.runtime.source_audit import audit_source

if TYPE_CHECKING:
    from amends.aggregates.sql.journal import SqlJournal

__all__ = ["Audited", "audit"]


@dataclass(frozen=True, slots=True)
class Audited:
    """The result of `amends pipeline audit` for one pipeline.

    Attributes:
        name: The pipeline or relay.
        account: The audit of the account of each partition.
        source: The comparison with the source; `None` if it was not wanted.
    """

    name: str
    account: Mapping[str, PartitionAudit]
    source: SourceAudit | None

    @property
    def right(self) -> bool:
        """Whether there is no finding."""
        return not any(each.findings for each in self.account.values()) and (self.source is None or self.source.exact)


async def audit(settings: Settings, name: str | None, *, against_source: bool) -> list[Audited]:
    """Audit one pipeline or relay, or all of them.

    Raises:
        NotFoundError: There is no pipeline or relay of that name.
        UnreachableError: The store or the source does not answer.
        InputError: A relay has no source.
    """
    project = load_project(settings) if settings.modules else None
    found: list[Audited] = []
    with open_for_reading(settings) as journal, busy("auditing") as show:
        names = known_names(journal, project, name)
        relays = [] if project is None else [each for each in project.pipelines.relays if name in {None, each}]
        for each in (*names, *relays):
            account: dict[str, PartitionAudit] = {}
            for partition in sorted(journal.intake.positions(each)):
                show(f"auditing the account of {each}, partition {partition}")
                account[partition] = audit_account(journal.intake, each, partition)
            pipeline = None if project is None else project.pipelines.pipelines.get(each)
            source = None
            if against_source and pipeline is not None:
                source = await _compared(settings, journal, pipeline, show)
            found.append(Audited(each, account, source))
    return found


async def _compared(settings: Settings, journal: "SqlJournal", pipeline: Pipeline[Any], show: Any) -> SourceAudit:  # noqa: ANN401 - a callable
    journal.codec.register(PipelineControl)
    async with open_source(settings, pipeline) as source:
        await answer_of(pipeline, source.partitions())
        return await audit_source(
            journal,
            pipeline,
            source,
            progress=lambda partition, done, total: show(
                f"reading {pipeline.name} again, partition {partition}: {done} of {total} positions"
            ),
        )
