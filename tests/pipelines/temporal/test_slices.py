"""The activity that owns a partition, in the environment for activities of Temporal's SDK."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from temporalio.activity import ActivityCancellationDetails
from temporalio.testing import ActivityEnvironment

from amends.aggregates.intake import Token
from amends.pipelines.runtime.partition_work import FencedError, OwnedKind, OwnedWork
from amends.pipelines.source import SourceSetupError, SourceUnreachableError
from amends.pipelines.temporal.ownership import Ownership, SliceEnded, SliceReason
from amends.pipelines.temporal.partition_workflow import SliceRequest
from amends.pipelines.temporal.slices import Slices
from amends.sagas.runtime.error_log import ErrorLog
from amends.sagas.temporal.failures import TravellingError

REQUEST = SliceRequest(OwnedKind.PIPELINE, "orders", "0", "store", 7)
LONG = timedelta(hours=1)


class Partition:
    """A partition and its Temporal, which a test controls.

    Attributes:
        batches: The number of batches that the owner has worked off.
        claims: The tokens of the claims so far.
        stored: The token in the store.
        fails: The error of the next claim; `None` if it succeeds.
        pauses: The number of the next claims that find a paused pipeline.
        exists: Whether the source has the partition.
        answers: Whether Temporal answers now.
        was_away: Whether Temporal was away a moment ago.
        gate: Must be set for a batch to end.
    """

    def __init__(self, *, slice: timedelta = LONG) -> None:  # noqa: A002 - the word of the settings
        self.batches = 0
        self.claims: list[Token] = []
        self.stored: Token | None = None
        self.fails: Exception | None = None
        self.pauses = 0
        self.exists = True
        self.answers = True
        self.was_away = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.environment = ActivityEnvironment()
        owned = OwnedWork(
            kind=OwnedKind.PIPELINE,
            name="orders",
            work=self,
            partitions=self._partitions,
            stored_token=self._stored,
        )
        self._slices = Slices(
            owned,
            store_id="store",
            temporal_answers=self._answers,
            temporal_was_away=lambda: self.was_away,
            ownership=Ownership(slice=slice),
            errors=ErrorLog(),
        )

    def start(self, request: SliceRequest = REQUEST) -> "asyncio.Task[SliceEnded]":
        """Start a slice."""
        (activity,) = self._slices.all()
        return asyncio.create_task(self.environment.run(activity, request))

    async def run(self, partition: str, token: Token, *, stop: asyncio.Event, seconds: float | None) -> object:
        """Work on the partition: the port."""
        assert (partition, seconds) == ("0", None)
        self.claims.append(token)
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error
        if self.pauses:
            self.pauses -= 1
            return None
        while not stop.is_set():
            await asyncio.sleep(0)
            await self.gate.wait()
            if self.stored is not None and self.stored > token:
                raise FencedError("orders", partition)
            self.batches += 1
        return None

    async def go_on(self) -> None:
        """Wait until the owner has worked off some more batches."""
        before = self.batches
        await until(lambda: self.batches > before + 10)

    async def _partitions(self) -> Sequence[str]:
        return ["0"] if self.exists else []

    async def _stored(self, partition: str) -> Token | None:
        assert partition == "0"
        return self.stored

    async def _answers(self, workflow_id: str) -> bool:
        assert workflow_id
        return self.answers


async def until(met: Callable[[], object]) -> None:
    """Wait until a condition is met; only the test's own bound ends the wait."""
    while not met():  # noqa: ASYNC110 - other tasks change it
        await asyncio.sleep(0.001)


async def test_an_owner_that_temporal_gave_up_during_an_outage_goes_on_until_it_is_fenced() -> None:
    """No cancellation for missed heartbeats interrupts the work while Temporal was away; another owner's token does."""
    partition = Partition()
    partition.was_away = True
    owning = partition.start()
    await partition.go_on()
    partition.environment.cancel(cancellation_details=ActivityCancellationDetails(timed_out=True))
    await partition.go_on()
    assert not owning.done()
    partition.stored = Token(7, 2)
    assert await owning == SliceEnded(SliceReason.FENCED, 7)
    assert partition.claims == [Token(7, 1)]


@pytest.mark.parametrize("details", [{"timed_out": True}, {"not_found": True}])
async def test_an_owner_that_a_healthy_temporal_gave_up_stops(details: dict[str, bool]) -> None:
    """An owner whose activity is gone stops once Temporal has had the time to start another one."""
    partition = Partition()
    partition.was_away = True
    owning = partition.start()
    await partition.go_on()
    partition.environment.cancel(cancellation_details=ActivityCancellationDetails(**details))
    await partition.go_on()
    partition.was_away = False
    assert (await owning).reason is SliceReason.SUPERSEDED


@pytest.mark.parametrize("details", [{"cancel_requested": True}, {"paused": True}, {"reset": True}])
async def test_an_order_ends_the_slice_after_the_present_batch(details: dict[str, bool]) -> None:
    """A cancelled, paused or reset activity ends its batch, and reports the cancellation."""
    partition = Partition()
    partition.was_away = True
    owning = partition.start()
    await partition.go_on()
    partition.gate.clear()
    before = partition.batches
    partition.environment.cancel(cancellation_details=ActivityCancellationDetails(**details))
    await asyncio.wait([owning], timeout=0.05)
    assert not owning.done()
    partition.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await owning
    assert partition.batches > before


async def test_a_shutdown_ends_the_slice_after_the_present_batch() -> None:
    """A worker that shuts down hands the partition over as a completed slice, so that the next one begins at once."""
    partition = Partition()
    owning = partition.start()
    await partition.go_on()
    partition.gate.clear()
    partition.environment.worker_shutdown()
    await asyncio.wait([owning], timeout=0.05)
    assert not owning.done()
    partition.gate.set()
    assert await owning == SliceEnded(SliceReason.HANDED_OVER)


async def test_a_slice_ends_only_when_temporal_answers() -> None:
    """An owner whose slice is over keeps the partition while Temporal could not start the next slice."""
    partition = Partition(slice=timedelta(0))
    partition.answers = False
    owning = partition.start()
    await partition.go_on()
    await partition.go_on()
    assert not owning.done()
    partition.answers = True
    assert await owning == SliceEnded(SliceReason.OVER)


async def test_a_late_owner_reports_the_greater_token() -> None:
    """A slice that finds a greater token ends with its number, from which the workflow continues."""
    partition = Partition()
    partition.stored = Token(41, 3)
    assert await partition.start() == SliceEnded(SliceReason.FENCED, 41)
    assert partition.batches == 0


async def test_an_owner_waits_for_its_source() -> None:
    """While the source is away, the owner keeps the partition and its token, and tries again."""
    partition = Partition()
    partition.fails = SourceUnreachableError("the broker does not answer")
    owning = partition.start()
    await partition.go_on()
    assert partition.claims == [Token(7, 1)] * 2
    partition.environment.worker_shutdown()
    await owning


async def test_a_resumed_pipeline_continues_in_the_same_slice() -> None:
    """An owner that has nothing to do keeps the partition and its token, and tries again now and then."""
    partition = Partition()
    partition.pauses = 1
    owning = partition.start()
    await partition.go_on()
    assert partition.claims == [Token(7, 1)] * 2
    partition.environment.worker_shutdown()
    await owning


async def test_the_slices_of_a_partition_that_is_gone_end() -> None:
    """A partition that the source has no more ends its workflow; one that cannot be opened for now does not."""
    partition = Partition()
    partition.fails = SourceSetupError("no partition 0")
    owning = partition.start()
    await partition.go_on()
    partition.environment.worker_shutdown()
    assert (await owning).reason is SliceReason.HANDED_OVER
    partition = Partition()
    partition.exists, partition.fails = False, SourceSetupError("no partition 0")
    assert await partition.start() == SliceEnded(SliceReason.GONE)


async def test_no_text_of_an_error_reaches_temporal() -> None:
    """A fault of the work fails the slice without its message."""
    partition = Partition()
    partition.fails = ValueError("secret")
    with pytest.raises(TravellingError) as raised:
        await partition.start()
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


async def test_a_slice_for_another_store_is_refused() -> None:
    """A worker on another store claims nothing."""
    partition = Partition()
    other = SliceRequest(OwnedKind.PIPELINE, "orders", "0", "other store", 7)
    with pytest.raises(TravellingError) as raised:
        await partition.start(other)
    assert not raised.value.non_retryable
    assert partition.claims == []
