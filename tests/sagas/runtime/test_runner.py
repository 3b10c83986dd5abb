"""The in-process runner, when several callers want the same run."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from amends import Attempted, Call, Runner, RunStatus, Saga, StartConflictError, effect


class Letter(BaseModel):
    """The input of the saga."""

    text: str = "hello"


class Post:
    """A post office that keeps every letter until the test opens it."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.taken = asyncio.Event()
        self.letters = 0


POST: list[Post] = []


@effect
async def send(letter: Letter, _: Call) -> str:
    """Hand the letter in, and wait until the post office sends it."""
    post = POST[-1]
    post.letters += 1
    post.taken.set()
    await post.gate.wait()
    return letter.text


@send.compensation
async def call_back(_: Attempted[Letter, str], __: Call) -> None:
    """Call the letter back."""


mail = Saga("mail", Letter, send)


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[Runner]:
    """Yield a runner on a store of its own, and a post office."""
    POST.append(Post())
    async with Runner.open([mail], store_url=f"sqlite:///{tmp_path / 'events.db'}") as opened:
        yield opened


async def test_callers_of_one_run_get_its_one_end(runner: Runner) -> None:
    """A second caller waits for the run in progress, and nothing is called twice; another input is refused."""
    first, second = (asyncio.create_task(runner.run(mail, Letter(), id="m")) for _ in range(2))
    await POST[-1].taken.wait()
    third, resumed = asyncio.create_task(runner.run(mail, Letter(), id="m")), asyncio.create_task(runner.resume("m"))
    with pytest.raises(StartConflictError):
        await runner.run(mail, Letter(text="good bye"), id="m")
    POST[-1].gate.set()
    ends = await asyncio.gather(first, second, third, resumed)
    assert {each.status for each in ends} == {RunStatus.COMPLETED}
    assert POST[-1].letters == 1


async def test_a_caller_that_gives_up_leaves_the_run_to_the_others(runner: Runner) -> None:
    """The call continues for the remaining callers; the last one that gives up ends it, and the run stays open."""
    first, second = (asyncio.create_task(runner.run(mail, Letter(), id="m")) for _ in range(2))
    await POST[-1].taken.wait()
    first.cancel()
    await asyncio.wait([first])
    assert not second.done()
    second.cancel()
    await asyncio.wait([second])
    assert (await runner.result("m")).status is RunStatus.RUNNING
    third = asyncio.create_task(runner.run(mail, Letter(), id="n"))
    POST[-1].gate.set()
    assert (await third).status is RunStatus.COMPLETED
    assert POST[-1].letters == 2
