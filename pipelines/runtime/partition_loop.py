"""The loop that reads the partitions of a source and commits their messages, batch by batch.

Theory of operation: the store is the only authority. The loop claims a partition with its token and reads from the
stored position. After anything unexpected (a lost reply, an operator who moved the position, a source that went away)
it claims again and reads on from the position that the store has. No message is lost or doubled by that, because a
position and its messages are one commit.
"""

import asyncio
from typing import Any

from amends.aggregates.intake import Token
from amends.aggregates.journal import Journal
from amends.aggregates.run.fact import IN_PROCESS_DRIVER
from amends.pipelines.definition.pipeline import Pipeline, Starts
from amends.pipelines.intake.arrival import Prepare
from amends.pipelines.intake.flow import BatchSize, Breaker
from amends.pipelines.intake.run_ids import run_id_of
from amends.pipelines.runtime.message_work import IntakeParts
from amends.pipelines.runtime.partition_slice import OnStarted, PartitionSlice, SliceParts
from amends.pipelines.runtime.slice_end import SliceEnd
from amends.pipelines.source import SourceConnection
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.protocol import RunProtocol
from amends.sagas.engine.start import Start, prepare_start
from amends.sagas.runtime.clock import Clock, SystemClock

__all__ = ["PartitionLoop"]


async def _nobody(_: object) -> None:
    """Drive no run; for pipelines that start none."""


class PartitionLoop:
    """Takes the messages of a pipeline's partitions; a `PartitionWork`.

    Args:
        journal: The store.
        registry: The sagas that the pipeline may start.
        pipeline: The pipeline.
        source: An open connection to its source.
        on_started: Drives the runs with these ids after their commit. The loop takes no further batch before it
            returns. An owner that is killed in between passes the ids of its last batch on to the next owner.
        driver: The driver of the runs.
        clock: The clock of the runs' facts.

    Attributes:
        intake: The parts of its units, for `held_units`.
        arrive: Decodes messages and prepares their work, for `held_units`.
    """

    def __init__(
        self,
        journal: Journal,
        registry: Registry,
        pipeline: Pipeline[Any],
        source: SourceConnection,
        *,
        on_started: OnStarted = _nobody,
        driver: str = IN_PROCESS_DRIVER,
        clock: Clock | None = None,
    ) -> None:
        self._registry = registry
        self._pipeline = pipeline
        self._driver = driver
        now_ms = (clock or SystemClock()).now_ms
        protocol = RunProtocol(registry, pipeline.name, driver)
        self._parts = SliceParts(
            journal=journal,
            source=source,
            intake=IntakeParts(pipeline=pipeline, protocol=protocol, now_ms=now_ms),
            prepare=self._prepare_of(pipeline),
            on_started=on_started,
            breaker=Breaker(),
        )
        self._sizes: dict[str, BatchSize] = {}
        self.intake = self._parts.intake
        self.arrive = self._parts.arrive

    async def run(
        self,
        partition: str,
        token: Token,
        *,
        stop: asyncio.Event,
        seconds: float | None = None,
        until_end: bool = False,
    ) -> SliceEnd:
        """Claim a partition, and take its messages until the request to stop.

        Args:
            partition: The partition.
            token: The claim.
            stop: Set by the owner; the loop then ends its present batch and returns.
            seconds: Time after which the loop returns; `None` for no bound.
            until_end: Whether it returns when it has taken every message that the source has.

        Raises:
            FencedError: The store has another token for the partition.
            SourceSetupError: The source has no such partition, or refuses the credentials.
        """
        bounds = self._pipeline.bounds
        size = self._sizes.setdefault(partition, BatchSize(bounds.batch, bounds.lock_ms))
        work = PartitionSlice(self._parts, partition, token, size, stop=stop, seconds=seconds, until_end=until_end)
        return await work.run()

    def _prepare_of(self, pipeline: Pipeline[Any]) -> Prepare | None:
        work = pipeline.work
        if not isinstance(work, Starts):
            return None

        def prepare(message_id: str, content: Any) -> Start:  # noqa: ANN401 - of the pipeline's model
            return prepare_start(
                self._registry,
                work.saga,
                work.mapping(content),
                run_id=run_id_of(pipeline.name, message_id),
                driver=self._driver,
                actor=f"pipeline:{pipeline.name}",
                causation_id=None,
            )

        return prepare
