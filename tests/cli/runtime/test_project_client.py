"""The client of a project finds store and Temporal by the settings, as the commands do."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import CommandProject
from journal_parts import prepare
from pydantic import BaseModel
from runs.greetings import greeting_project

from amends import Call, Client, InputError, RunStatus, Saga, UnreachableError, effect


class Order(BaseModel):
    """The input of a saga that no module of the project defines."""


@effect(read_only=True)
async def rest(order: Order, call: Call) -> None:
    """Stand for a step."""


RESTING = Saga("resting", Order, rest)


@pytest.fixture
def upgraded_url(store_url: str) -> str:
    """Return the URL of a store that is ready for use."""
    return prepare(store_url)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandProject]:
    """Yield a project in which no program runs, below whose directory this process works."""
    with greeting_project(tmp_path / "shop", monkeypatch) as project:
        inner = project.path / "web" / "pages"
        inner.mkdir(parents=True)
        monkeypatch.chdir(inner)
        yield project


async def test_a_client_finds_a_running_dev(project: CommandProject) -> None:
    """Without an address, a client starts runs on the server, and in the store, of the `amends dev` of its project."""
    with project.started("dev") as dev:
        dev.read_until("Ready")
        async with await Client.from_project(actor="web") as client:
            greetings = sys.modules["greetings"]
            handle = await client.start(greetings.greeting, greetings.Order(name="Ada"), id="ada-1")
            result = await handle.result()
        assert (result.status, result.result_of(greetings.greet)) == (RunStatus.COMPLETED, "hello Ada")
        assert project.run("show", "ada-1").code == 0
        assert result.to_json()["actor"] == "web"


async def test_a_client_says_that_nothing_runs(project: CommandProject) -> None:
    """Without a Temporal the call ends in one line that names the place and the remedy, and creates nothing."""
    for folder in (None, project.path, str(project.path)):
        with pytest.raises(UnreachableError) as refused:
            await Client.from_project([RESTING], project=folder)
        assert str(refused.value) == (
            f"no Temporal is configured and no embedded server runs in '{project.path}/.amends'; "
            f"set TEMPORAL_ADDRESS, or use amends dev, which starts one"
        )
    assert not (project.path / ".amends").exists()


async def test_a_client_uses_the_configured_temporal(
    project: CommandProject, temporal_address: str, upgraded_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configured Temporal, store and task queue count; with sagas as arguments no module is imported."""
    project.write("greetings.py", "raise SystemExit(7)\n")
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_address)
    monkeypatch.setenv("AMENDS_STORE_URL", upgraded_url)
    async with await Client.from_project([RESTING]) as client:
        handle = await client.start(RESTING, Order())
        assert (await handle.status()).status is RunStatus.RUNNING
    async with await Client.connect([RESTING], store_url=upgraded_url, temporal=temporal_address) as other:
        assert (await other.status(handle.id)).run_id == handle.id


async def test_wrong_settings_are_refused(project: CommandProject) -> None:
    """A wrong setting ends in the line that the commands print, before anything is opened."""
    project.write("amends.toml", "task_queue = 7\n")
    with pytest.raises(InputError, match="task_queue = 7 is refused"):
        await Client.from_project([RESTING])


async def test_an_address_without_a_temporal_is_one_line(sqlite_url: str) -> None:
    """A client for an address that nothing answers at fails within the bound, with address and remedy."""
    with pytest.raises(UnreachableError) as refused:
        await Client.connect([RESTING], store_url=sqlite_url, temporal="127.0.0.1:1")
    assert str(refused.value).startswith("Temporal at 127.0.0.1:1 cannot be reached (")
    assert str(refused.value).endswith("; start it, or correct the address")
    assert "\n" not in str(refused.value)
