"""The reactions of the transfer to the bank's answers, with a real bank."""

from collections.abc import Iterator
from pathlib import Path

import bank
import pytest
from services.process import ServiceProcess
from transfer import NoAnswerError, book, find

from amends import Rejected

MONEY = {"account": "alice", "amount": "30.00"}


@pytest.fixture(scope="module", autouse=True)
def _bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One bank for all tests; each uses keys of its own."""
    place = Path(bank.__file__).parent
    with (
        ServiceProcess("bank", tmp_path_factory.mktemp("bank"), "--open", "alice=100.00", project=place) as service,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("BANK_URL", service.base_url)
        yield


async def test_a_booking_is_found_under_its_key() -> None:
    """The bank answers the same, in its reply and to the probe."""
    booked = await book("hold", "found", MONEY)
    assert await find("found") == booked == await book("hold", "found", MONEY)


async def test_nothing_so_far_is_no_answer() -> None:
    """An effect that has not taken place may still do so, so the probe does not deny it."""
    with pytest.raises(NoAnswerError, match="its call may still be on its way"):
        await find("not-yet")


async def test_a_refusal_stays_one() -> None:
    """A refusal carries the bank's reason, then and later."""
    for again in (book("hold", "refused", {**MONEY, "amount": "1000.00"}), find("refused")):
        with pytest.raises(Rejected, match=r"insufficient funds: 1000\.00 asked of alice"):
            await again


async def test_a_void_settles_what_comes_late() -> None:
    """After a void nothing happened and nothing will: the probe may deny the effect, and a late call is refused."""
    await book("void", "void-of-late", {"key": "late"})
    assert await find("late") is None
    with pytest.raises(NoAnswerError, match="409 voided"):
        await book("hold", "late", MONEY)
