"""Faults of drift rules and corrections are reported in one line."""

import json
import re

import pytest
from commands import CommandProject
from runs.faulty_project import SETTINGS, scaffold

RULES = """
import sys
from datetime import timedelta

from amends import Command, ScanFailed, Drift, drift_rule

daily = timedelta(days=1)


def fail(*_):
    raise RuntimeError("the printer is\\non fire\\x1b[0m")


def leave(*_):
    sys.exit(0)


@drift_rule("raising", every=daily)
def raising(observation):
    fail()


@drift_rule("returning-nothing", every=daily)
def returning_nothing(observation):
    pass


@drift_rule("wrong-kind", every=daily)
def wrong_kind(observation):
    yield Drift(subject="s", kind="absent")


@drift_rule("no-drift", every=daily)
def no_drift(observation):
    yield "drift"


@drift_rule("closed", every=daily)
async def closed(observation):
    yield ScanFailed("the library\\nis closed")


@drift_rule("exiting", every=daily)
def exiting(observation):
    sys.exit(0)


@drift_rule("failing", every=daily, mode="propose")
def failing(observation):
    yield Drift(subject="s", kind="missing", correction=Command(fail))
    yield Drift(subject="t", kind="missing", correction=Command(leave))


@drift_rule("unwrapped", every=daily, mode="propose")
def unwrapped(observation):
    yield Drift(subject="s", kind="missing", correction=fail)
"""


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> CommandProject:
    """Return a project with drift rules of every wrong kind, and an empty store."""
    project = scaffold(tmp_path_factory.mktemp("ruled") / "shop")
    project.write("amends.toml", SETTINGS.replace('"shop"', '"shop", "rules"'))
    project.write("rules.py", RULES)
    assert project.run("db", "upgrade").code == 0
    return project


PLACE = re.compile(r" \(rules\.py, line \d+\)$")


def test_what_is_wrong_with_a_drift_rule_is_said(ruled: CommandProject) -> None:
    """A rule that raises, returns a wrong type or ends the program fails its scan, with one line each."""
    says = {
        "raising": "RuntimeError: the printer is on fire?[0m",
        "returning-nothing": "the rule returned nothing at all; it must yield drift, or return a list, "
        "which may be empty",
        "wrong-kind": "InputError: drift of 's': kind 'absent' is not one of missing, unexpected, different, duplicate",
        "no-drift": "the rule yielded 'drift', which is not a Drift",
        "unwrapped": "is not a correction; write Command(function, input), Intervene(run, intervention), or None",
        "closed": "the library is closed",
        "exiting": "SystemExit: 0",
    }
    ended = ruled.run("drift", *says)
    assert (ended.code, ended.out) == (3, "")
    lines = ended.err.splitlines()
    assert [line.split()[2] for line in lines] == list(says)
    for line, words in zip(lines, says.values(), strict=True):
        assert re.fullmatch(rf"amends: rule \S+ could not scan: .*{re.escape(words)}", PLACE.sub("", line)), line
        assert line.isprintable()
    placed = [name for name, line in zip(says, lines, strict=True) if PLACE.search(line)]
    assert placed == ["raising", "wrong-kind", "unwrapped", "exiting"], "what was raised in the rule says where"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["drift", "rasing"], "there is no drift rule 'rasing'; there are: "),
        (["reconcile", "--approve", "x.1"], "no open drift of these rules has the id 'x.1'"),
        (["ignore", "add", "failing", "s", "--reason", "r", "--days", "soon"], "--days"),
    ],
)
def test_a_wrong_question_about_drift_is_refused(ruled: CommandProject, arguments: list[str], says: str) -> None:
    """A wrong question about drift ends in status 2 and one line."""
    ended = ruled.run(*arguments)
    assert ended.code == 2
    assert says in ended.error
    assert ended.error.isprintable()
    assert ended.out == ""


def test_a_correction_that_fails_is_said(ruled: CommandProject) -> None:
    """One line names the drift and the cause, even if the correction ends the program; no line claims success."""
    found = json.loads(ruled.run("reconcile", "failing", "--json").out)[0]["drift"]
    approvals = [word for drift in found for word in ("--approve", drift["id"])]
    ended = ruled.run("reconcile", "failing", *approvals)
    assert ended.code == 1
    assert [line for line in ended.err.splitlines() if "not corrected" in line] == [
        f"amends: not corrected: {drift['id']} of {drift['subject']}: {why}"
        for drift, why in zip(found, ["RuntimeError: the printer is on fire?[0m", "SystemExit: 0"], strict=True)
    ]
    assert "Traceback" not in ended.err
    assert "corrected" not in ended.out
    assert json.loads(ruled.run("reconciliations", "failing", "--json").out)[0]["failed"] == 2
