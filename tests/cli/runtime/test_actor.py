"""Test that every decision is recorded with the name of a person, or refused."""

import getpass
import pwd
from pathlib import Path
from typing import Any

import pytest
import typer
from reading_shop import Amends, Shop, change, copy_of, one_line

from amends.aggregates.errors import InputError
from amends.cli.app import app
from amends.cli.runtime.operator import actor_name, known_actor

NO_NAME = "cannot determine your user name; pass --actor NAME (it is recorded with the decision)"
DECISIONS = [
    ["cancel", "order-accepted", "--reason", "r", "--yes"],
    ["retry", "order-accepted", "--reason", "r", "--yes"],
    ["skip", "order-accepted", "--reason", "r", "--yes"],
    ["resolve", "order-accepted", "--reason", "r", "--evidence", "e", "--yes"],
    ["recover", "--take-over", "order-accepted"],
    ["reconcile", "read-model", "--approve", "x.1"],
    ["ignore", "add", "read-model", "order-accepted", "--reason", "r"],
    ["ignore", "remove", "read-model", "order-accepted"],
    ["maintenance", "start", "--for", "1h", "--reason", "r"],
    ["maintenance", "stop"],
    ["schedule", "add", "nightly", "--every", "1h"],
    ["schedule", "pause", "nightly", "--reason", "r"],
    ["schedule", "resume", "nightly"],
    ["schedule", "remove", "nightly"],
]


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as a user id without a name, as containers do."""
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)

    def nobody(uid: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)


@pytest.mark.usefixtures("nameless")
@pytest.mark.parametrize("arguments", DECISIONS, ids=lambda words: " ".join(words[:2]))
def test_a_decision_of_nobody_is_refused(amends: Amends, arguments: list[str]) -> None:
    """Without a user name, every command that records a decision ends in one line and exit status 2."""
    answer = amends(*arguments)
    assert (answer.code, one_line(answer)) == (2, NO_NAME)


@pytest.mark.usefixtures("nameless")
@pytest.mark.parametrize("actor", ["", "  ", "unknown", " UNKNOWN "])
def test_no_name_is_no_actor(amends: Amends, actor: str) -> None:
    """An empty name and "unknown" are refused as `--actor`, too."""
    answer = amends("maintenance", "stop", "--actor", actor)
    assert answer.code == 2
    assert "names nobody; pass your name" in one_line(answer)


@pytest.mark.usefixtures("nameless")
def test_the_given_name_is_recorded(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--actor` is the name in approvals, ignores and maintenance windows."""
    folder = copy_of(shop, tmp_path)
    change(folder, "DELETE FROM saga_index WHERE run_id = (SELECT min(run_id) FROM saga_index)")
    amends = Amends(folder, capsys)
    name = amends("reconcile", "read-model", "--json").json[0]["drift"][0]["id"]
    assert amends("ignore", "add", "read-model", "s", "--reason", "r", "--actor", "Ada").code == 0
    assert [each["actor"] for each in amends("ignore", "list", "--json").json] == ["Ada"]
    assert amends("maintenance", "start", "streams", "--for", "1h", "--reason", "r", "--actor", "Bo").code == 0
    assert [each["actor"] for each in amends("maintenance", "list", "--json").json] == ["Bo"]
    assert amends("reconcile", "read-model", "--approve", name, "--actor", "Cy").code == 0
    facts = amends("reconciliation", "read-model:2", "--json").json
    assert {each["fact"]: each["actor"] for each in facts}["DriftApproved"] == "Cy"


@pytest.mark.usefixtures("nameless")
def test_looking_without_approval_needs_no_name(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A scan without an approval is recorded under the program's name."""
    amends = Amends(copy_of(shop, tmp_path), capsys)
    assert amends("reconcile", "read-model").code == 0
    facts = amends("reconciliation", "read-model:1", "--json").json
    assert {each["actor"] for each in facts} == {"amends reconcile"}


@pytest.mark.parametrize("error", [KeyError("uid"), OSError("no name"), ImportError("pwd")])
def test_any_failure_to_find_a_name_is_the_same(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Every error with which Python reports a missing name counts as a missing name."""

    def fails() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", fails)
    assert known_actor() is None
    with pytest.raises(InputError, match="cannot determine your user name"):
        actor_name(None)


def test_every_command_with_a_reason_takes_an_actor() -> None:
    """A command that takes a reason also takes an actor."""

    def walk(group: Any, path: str) -> list[str]:  # noqa: ANN401 - Typer's own classes are private
        lacking = []
        for name in group.list_commands(None):
            command = group.get_command(None, name)
            if hasattr(command, "list_commands"):
                lacking += walk(command, f"{path}{name} ")
                continue
            options = {option for parameter in command.params for option in parameter.opts}
            if "--reason" in options and "--actor" not in options:
                lacking.append(f"{path}{name}")
        return lacking

    assert walk(typer.main.get_command(app), "") == []
