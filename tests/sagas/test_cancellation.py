"""A run can be cancelled at any point before its pivot, and nothing cuts its undo short; after the pivot it cannot."""

import asyncio
from pathlib import Path

import pytest
import temporalio.client
from bounds import HANG
from hard_parts import HOURLY, PATIENT, Ledger, Order, client_of, opened, until, working
from stores import POSTGRESQL_IN_SOAK

from amends import RunStatus, Saga
from amends.aggregates.errors import RefusedError
from amends.aggregates.run.facts import CancelRequested
from amends.aggregates.sql.journal import SqlJournal
from amends.sagas.temporal.client import Client, RunHandle


class Scene:
    """Runs on one store.

    Args:
        journal: The store.
        temporal: Temporal.
        folder: The folder of the participant's ledger.
    """

    def __init__(self, journal: SqlJournal, temporal: temporalio.client.Client, folder: Path) -> None:
        folder.mkdir()
        self.journal = journal
        self.temporal = temporal
        self.queue = f"cancel-{journal.store_id}"
        self.ledger = Ledger(folder)
        self._folder = folder
        self._client: Client = client_of(temporal, journal, self.queue)

    async def start(
        self, saga: Saga[Order], name: str, *, held: tuple[str, ...] = (), away: tuple[str, ...] = ()
    ) -> RunHandle[Order]:
        """Start a run."""
        order = Order(folder=str(self._folder), held=held, away=away)
        return await self._client.start(saga, order, id=f"{self.queue}-{name}")

    async def cancel_in_temporal(self, handle: RunHandle[Order]) -> None:
        """Cancel the workflow through Temporal itself."""
        await self.temporal.get_workflow_handle(handle.id).cancel()

    async def until_kind(self, handle: RunHandle[Order], kind: str) -> None:
        """Wait until a run has a fact of a kind."""
        await until(self.journal, handle.id, lambda facts: any(fact.kind == kind for fact in facts))

    async def check(self, handle: RunHandle[Order], status: RunStatus, *acted: str, cancelled: bool = True) -> None:
        """Check that a run has ended with these calls of the participant, and that it was cancelled once, or never."""
        assert (await handle.result(timeout=HANG)).status is status
        assert self.ledger.acted(handle.id) == list(acted)
        wishes = [fact for fact in await handle.history() if isinstance(fact, CancelRequested)]
        assert len(wishes) == cancelled

    async def while_waiting(self) -> None:
        """Cancel a run whose next attempt is an hour away."""
        handle = await self.start(HOURLY, "waiting", away=("pay/do",))
        await self.until_kind(handle, "StepAttemptFailed")
        await handle.cancel("changed their mind")
        await self.check(handle, RunStatus.COMPENSATED, "pay/undo/0")
        wish = next(fact for fact in await handle.history() if isinstance(fact, CancelRequested))
        assert (wish.reason, wish.actor) == ("changed their mind", "client")
        again = await handle.cancel("twice")
        assert again.status is RunStatus.COMPENSATED

    async def while_in_flight(self, *, by_temporal: bool) -> None:
        """Cancel a run with a call in flight: the run waits for the answer, and undoes the effect."""
        handle = await self.start(PATIENT, f"flying-{by_temporal}", held=("pay/do",))
        await self.ledger.until_called(handle.id, "pay/do/0")
        if by_temporal:
            await self.cancel_in_temporal(handle)
        else:
            await handle.cancel("changed their mind")
        await self.until_kind(handle, "CancelRequested")
        assert (await handle.status()).status is RunStatus.CANCELLING
        self.ledger.open_gate(handle.id)
        await self.check(handle, RunStatus.COMPENSATED, "pay/do/0", "pay/undo/0")

    async def twice_by_temporal(self) -> None:
        """Cancel a run through Temporal, which undoes it, and a second time in the middle of the undo."""
        handle = await self.start(HOURLY, "twice", away=("pay/do", "pay/undo"))
        await self.until_kind(handle, "StepAttemptFailed")
        await self.cancel_in_temporal(handle)
        await self.until_kind(handle, "CompensationAttemptFailed")
        await self.cancel_in_temporal(handle)
        await handle.cancel("once more")
        self.ledger.open_gate(handle.id)
        await self.check(handle, RunStatus.COMPENSATED, "pay/undo/0")

    async def behind_the_pivot(self) -> None:
        """Cancel a run after its pivot: the client's cancel is refused, and Temporal's own changes nothing."""
        handle = await self.start(PATIENT, "forward", away=("deliver/do",))
        await self.ledger.until_called(handle.id, "deliver/do/0")
        with pytest.raises(RefusedError, match="has passed its pivot and cannot be cancelled"):
            await handle.cancel("too late")
        await self.cancel_in_temporal(handle)
        self.ledger.open_gate(handle.id)
        await self.check(handle, RunStatus.COMPLETED, "pay/do/0", "deliver/do/0", cancelled=False)

    async def begin_undo(self) -> RunHandle[Order]:
        """Start a run and wait until it is in the middle of its undo."""
        handle = await self.start(HOURLY, "undoing", held=("pay/undo",), away=("pay/do",))
        await self.until_kind(handle, "StepAttemptFailed")
        await handle.cancel("changed their mind")
        await self.ledger.until_called(handle.id, "pay/undo/0")
        return handle


async def play(url: str, temporal: temporalio.client.Client, folder: Path) -> None:
    """Cancel runs everywhere on one store, and end the worker in the middle of an undo."""
    async with opened(url) as journal:
        scene = Scene(journal, temporal, folder)
        async with working(temporal, journal, scene.queue):
            undoing, *_ = await asyncio.gather(
                scene.begin_undo(),
                scene.while_waiting(),
                scene.while_in_flight(by_temporal=False),
                scene.while_in_flight(by_temporal=True),
                scene.twice_by_temporal(),
                scene.behind_the_pivot(),
            )
        assert not (await undoing.status()).closed
        scene.ledger.open_gate(undoing.id)
        async with working(temporal, journal, scene.queue):
            await scene.check(undoing, RunStatus.COMPENSATED, "pay/undo/0")
        assert scene.ledger.called(undoing.id).count("pay/undo/0") == 2


@POSTGRESQL_IN_SOAK
async def test_a_cancelled_run_is_undone(store_url: str, temporal_address: str, tmp_path: Path) -> None:
    """A cancel before the pivot acts at once, exactly once, and the undo is never cut short."""
    temporal = await temporalio.client.Client.connect(temporal_address)
    await play(store_url, temporal, tmp_path / "ledger")
