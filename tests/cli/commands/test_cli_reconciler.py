"""Test every command of the reconciler as a user runs it: next to `amends dev`, on either database."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import CommandProject
from reading_shop import SHELF
from stores import POSTGRESQL_IN_SOAK


def library(folder: Path, **environment: str) -> CommandProject:
    """Create a project whose rule finds drift."""
    project = CommandProject(folder / "library", environment)
    project.write("amends.toml", 'modules = ["library"]\n')
    project.write("library.py", SHELF)
    return project


@pytest.fixture
def project(tmp_path: Path, store_url: str) -> Iterator[CommandProject]:
    """Yield such a project, served by `amends dev`, which runs no rule automatically."""
    project = library(tmp_path, AMENDS_STORE_URL=store_url)
    assert project.run("db", "upgrade").code == 0
    with project.started("dev") as dev:
        dev.read_until("Ready")
        yield project
        assert dev.stop() == 0


@POSTGRESQL_IN_SOAK
def test_every_command_works(project: CommandProject) -> None:
    """Drift is found, ignored, held, scheduled, approved and corrected, and each command reports it."""

    def amends(*arguments: str, code: int = 0) -> str:
        ended = project.run(*arguments)
        assert ended.code == code, f"amends {' '.join(arguments)}: {ended.code}\n{ended.out}{ended.err}"
        return ended.out

    def read(*arguments: str, code: int = 0) -> Any:  # noqa: ANN401 - JSON
        return json.loads(amends(*arguments, "--json", code=code))

    def held(command: str, *arguments: str) -> tuple[str, str]:
        ((drift,),) = [each["drift"] for each in read(command, "shelf", *arguments, code=1)]
        return drift["id"], drift["held"]

    # Neither a scan nor a dry run writes anything.
    assert held("drift")[1] == held("reconcile", "--dry-run")[1] == "waits for approval"
    assert read("reconciliations") == []
    # A schedule runs the rule in the worker of `amends dev`, at the declared times.
    amends("schedule", "add", "nightly", "shelf", "--cron", "0 3 * * *", "--time-zone", "Europe/Berlin")
    amends("schedule", "trigger", "nightly", "--wait")
    assert [each["id"] for each in read("reconciliations")] == ["shelf:1"]
    amends("schedule", "pause", "nightly", "--reason", "stocktaking")
    assert read("schedule", "show", "nightly")["paused"] == "stocktaking"
    amends("schedule", "resume", "nightly")
    assert [(each["schedule"], each["paused"]) for each in read("schedule", "list")] == [("nightly", None)]
    amends("schedule", "remove", "nightly")
    assert read("schedule", "list") == []
    # An ignored drift does not count; in maintenance nothing is corrected, approved or not.
    amends("ignore", "add", "shelf", "Shelf/s", "--reason", "being moved")
    amends("drift", "shelf")
    assert [each["what"] for each in read("ignore", "list")] == ["Shelf/s"]
    amends("ignore", "remove", "shelf", "Shelf/s")
    amends("maintenance", "start", "shelf", "--reason", "stocktaking", "--for", "1h")
    (window,) = read("maintenance", "list")
    name, _ = held("drift")
    assert "maintenance window" in held("reconcile", "--approve", name)[1]
    amends("maintenance", "stop", "shelf")
    assert (window["rule"], read("maintenance", "list")) == ("shelf", [])
    # The earlier approval counts; the reconciliation and the aggregate's history both show the correction.
    ((made,),) = [each["corrected"] for each in read("reconcile", "shelf")]
    assert made["changed"] == ["Shelf/s:1", "Shelf/s:2"]
    amends("drift")
    last = read("reconciliations")[0]
    kinds = [each["fact"] for each in read("reconciliation", last["id"])]
    assert kinds == ["RuleScanned", "DriftCorrected"]
    assert read("history", "Shelf/s")[1]["fields"] == {"books": 3, "drift": name}
    amends("db", "check")


@pytest.mark.soak
def test_what_was_missed_is_counted(tmp_path: Path) -> None:
    """Runs that were due while Temporal was away for longer than it makes up for are shown as missed."""
    project = library(tmp_path)

    def shown() -> Any:  # noqa: ANN401 - JSON
        return json.loads(project.run("schedule", "show", "often", "--json").out)["temporal"]

    with project.started("dev") as dev:
        dev.read_until("Ready")
        assert project.run("schedule", "add", "often", "shelf", "--every", "1s").code == 0
        while not shown()["taken"]:
            pass
        assert shown()["missed"] == 0
        assert dev.stop() == 0
    time.sleep(12)  # Temporal makes up for ten seconds at least
    with project.started("dev") as dev:
        dev.read_until("Ready")
        while not (missed := shown()["missed"]):
            pass
        assert f"{missed}, while Temporal was down" in project.run("schedule", "show", "often").out
