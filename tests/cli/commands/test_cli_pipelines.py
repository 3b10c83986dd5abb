"""Test `amends pipeline` at the command line, on JSON lines files and without Temporal."""

import json
import signal
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from commands import CommandProject

NAME = "payments"

MODULE = '''
from pydantic import BaseModel

from amends import JsonLinesSource, Pipeline, StepWork


class Payment(BaseModel):
    id: str
    customer: str
    amount: int = 1


def id_of(payment: Payment) -> str:
    return payment.id


def customer_of(payment: Payment) -> str:
    return payment.customer


payments = Pipeline("payments", JsonLinesSource("in/*.jsonl"), Payment, id=id_of, key=customer_of)


@payments.handles
def book(payment: Payment, uow: StepWork) -> None:
    """Book a payment."""
    if payment.amount < 0:
        raise ValueError("negative")
    uow.send("booked", key=payment.customer, value={"id": payment.id})
'''

GOOD = [(f"p-{number}", f"c-{number % 4}", 1) for number in range(12)]
FILE = "in/a.jsonl"


def payments_at(folder: Path) -> CommandProject:
    """Create the project, with an empty folder of files."""
    project = CommandProject(folder)
    project.write("shop.py", MODULE)
    project.write("amends.toml", 'modules = ["shop"]\n')
    (folder / "in").mkdir()
    return project


def send(project: CommandProject, file: str, messages: Iterable[tuple[str, str, int]]) -> None:
    """Append messages to a file: id, customer and amount of each."""
    with (project.path / "in" / file).open("a") as lines:
        for id_, customer, amount in messages:
            lines.write(json.dumps({"id": id_, "customer": customer, "amount": amount}) + "\n")


@pytest.fixture
def project(tmp_path: Path) -> CommandProject:
    """A project with twelve payments in one file."""
    made = payments_at(tmp_path)
    send(made, "a.jsonl", GOOD)
    return made


def pipeline(project: CommandProject, *arguments: str, code: int = 0) -> str:
    """Run a command about pipelines, check its status, and return its output."""
    ended = project.run("pipeline", *arguments)
    assert ended.code == code, ended.out + ended.err
    return ended.out


def taken(project: CommandProject, code: int = 0) -> dict[str, Any]:
    """Run the pipeline to the end of its source, and return the counts."""
    counts: dict[str, Any] = json.loads(pipeline(project, "run", NAME, "--until-end", "--json", code=code))
    return counts


def status(project: CommandProject) -> dict[str, Any]:
    """Return the status of the pipeline."""
    (found,) = json.loads(pipeline(project, "list", "--json"))
    return dict(found)


def test_a_run_to_the_end_takes_every_message_once(project: CommandProject) -> None:
    """The first run takes the file, the second one only what was appended, with the producer's duplicate counted."""
    assert taken(project)["applied"] == len(GOOD)
    send(project, "a.jsonl", [GOOD[0], ("p-new", "c-0", 1)])
    send(project, "b.jsonl", [("p-other", "c-0", 1)])
    before = status(project)
    assert (before["backlog"], before["state"]) == (3, "running")
    second = taken(project)
    assert (second["applied"], second["repeated"], second["set_aside"]) == (2, 1, 0)
    after = status(project)
    assert (after["backlog"], after["counts"]["applied"]) == (0, len(GOOD) + 2)
    assert [each["partition"] for each in after["partitions"]] == ["in/a.jsonl", "in/b.jsonl"]
    assert "14" in pipeline(project, "show", NAME)


def test_a_run_goes_on_until_it_is_stopped(project: CommandProject) -> None:
    """Without --until-end the process also takes a file that appears later; Ctrl-C ends it with status 0."""
    with project.started("pipeline", "run", NAME) as running:
        running.read_until("Reading")
        send(project, "late.jsonl", [("p-late", "c-1", 1)])
        while "in/late.jsonl" not in pipeline(project, "list", "--json", "--offline"):
            pass
        assert running.stop(signal.SIGINT) == 0
    assert "13 applied" in "".join(running.lines)


def test_a_paused_pipeline_takes_nothing_until_it_is_resumed(project: CommandProject) -> None:
    """The pause is a fact with actor and reason; a run then ends with status 5, and goes on after the resumption."""
    taken(project)
    pipeline(project, "pause", NAME, "--reason", "audit", "--actor", "ada")
    send(project, "a.jsonl", [("p-new", "c-0", 1)])
    assert taken(project, code=5)["applied"] == 0
    paused = status(project)
    assert (paused["state"], paused["paused"]["actor"], paused["paused"]["reason"]) == ("paused", "ada", "audit")
    pipeline(project, "resume", NAME)
    assert taken(project)["applied"] == 1


def test_messages_that_are_read_again_have_no_second_effect(project: CommandProject) -> None:
    """A seek needs a pause; after it every message is counted as replayed, and none takes effect."""
    taken(project)
    assert "pause it first" in project.run("pipeline", "seek", NAME, "--start", "--reason", "x").error
    pipeline(project, "pause", NAME, "--reason", "x")
    assert "read again" in pipeline(project, "seek", NAME, "--start", "--reason", "x")
    pipeline(project, "resume", NAME)
    again = taken(project)
    assert (again["applied"], again["replayed"]) == (0, len(GOOD))


def test_a_mode_holds_for_a_share_of_the_keys(project: CommandProject) -> None:
    """In the mode observed a duplicate is counted and applied again; the list shows both modes with their shares."""
    taken(project)
    pipeline(project, "mode", NAME, "observed", "--reason", "look")
    send(project, "a.jsonl", GOOD[:2])
    observed = taken(project)
    assert (observed["applied"], observed["applied_again"]) == (2, 2)
    pipeline(project, "mode", NAME, "exactly-once", "--share", "30", "--reason", "back")
    assert status(project)["mode"] == "exactly-once 30 %, observed 70 %"


def test_held_messages_are_shown_released_and_skipped(project: CommandProject) -> None:
    """One poisoned message holds up its key only; skipping it and a retry let the later ones take effect in order."""
    send(project, "a.jsonl", [("p-bad", "c-bad", -1), ("p-after", "c-bad", 1), ("p-fine", "c-1", 1)])
    (project.path / FILE).open("a").write("no json\n")
    counts = taken(project, code=5)
    assert (counts["applied"], counts["set_aside"]) == (13, 3)
    held = json.loads(pipeline(project, "quarantine", "list", NAME, "--json"))
    assert [(each["position"], each["kind"]) for each in held] == [
        (13, "failed"),
        (14, "follower"),
        (16, "undecodable"),
    ]
    shown = json.loads(pipeline(project, "quarantine", "show", NAME, FILE, "13", "--json"))
    assert shown["content"] == {"id": "p-bad", "customer": "c-bad", "amount": -1}
    assert "still held" in pipeline(project, "quarantine", "retry", NAME, "c-bad", "--reason", "x", code=5)
    pipeline(project, "quarantine", "skip", NAME, FILE, "13", "--reason", "a test payment", "--actor", "ada")
    assert "1 took effect" in pipeline(project, "quarantine", "retry", NAME, "c-bad", "--reason", "x")
    pipeline(project, "quarantine", "skip", NAME, FILE, "16", "--reason", "noise")
    assert "holds no message" in project.run("pipeline", "quarantine", "list", NAME).error
    assert status(project)["counts"]["skipped"] == 2


def test_a_changed_definition_does_not_run_until_it_is_declared(project: CommandProject) -> None:
    """`check` shows the difference and ends with status 1; a run is refused until somebody accepts the change."""
    taken(project)
    pipeline(project, "check")
    module = (project.path / "shop.py").read_text()
    project.write("shop.py", module.replace("key=customer_of", "key=id_of"))
    assert "key" in pipeline(project, "check", code=1)
    refused = project.run("pipeline", "run", NAME, "--until-end")
    assert (refused.code, f"amends pipeline check {NAME} --accept" in refused.error) == (2, True)
    pipeline(project, "check", NAME, "--accept")
    pipeline(project, "check", NAME)
    taken(project)


def test_the_audit_names_missing_and_doubled_ids(project: CommandProject) -> None:
    """Account and source agree after duplicates and a held message; a lost effect and a doubled id are named."""
    send(project, "a.jsonl", [GOOD[0], ("p-bad", "c-bad", -1)])
    taken(project, code=5)
    send(project, "a.jsonl", [("p-unread", "c-1", 1)])
    (right,) = json.loads(pipeline(project, "audit", NAME, "--against-source", "--json"))
    assert right["partitions"][0]["arrived"] == len(GOOD) + 2
    source = right["source"]
    assert (source["messages"], source["effects"], source["held"], source["exact"]) == (14, 12, 1, True)
    lines = (project.path / FILE).read_text().replace("p-3", "p-x")
    (project.path / FILE).write_text(lines)
    pipeline(project, "mode", NAME, "observed", "--reason", "look")
    send(project, "a.jsonl", [GOOD[1]])
    taken(project, code=5)
    (wrong,) = json.loads(pipeline(project, "audit", NAME, "--against-source", "--json", code=1))
    assert (wrong["source"]["missing"], wrong["source"]["doubled"]) == (["p-x"], ["p-1"])
    assert "missing: p-x" in pipeline(project, "audit", "--against-source", code=1)


def test_a_damaged_account_is_found(project: CommandProject) -> None:
    """A commit that is gone is a finding of the audit and drift of the built-in rule, in each of its scans."""
    taken(project)
    send(project, "a.jsonl", [("p-new", "c-0", 1)])
    taken(project)
    pipeline(project, "audit")
    assert project.run("drift", "pipeline-account").code == 0
    with sqlite3.connect(project.path / ".amends" / "events.db") as store:
        store.execute("DELETE FROM pipeline_batches WHERE number = 1")
    assert "expected number 1" in pipeline(project, "audit", NAME, code=1)
    drift = project.run("drift", "pipeline-account")
    assert (drift.code, "pipeline/payments/in/a.jsonl" in drift.out) == (1, True)


def test_the_list_can_be_watched(project: CommandProject) -> None:
    """`--watch` prints the list again and again, until Ctrl-C ends it with status 0."""
    taken(project)
    with project.started("pipeline", "list", "--watch", "--every", "0.1", "--offline") as watching:
        watching.read_until(NAME)
        watching.read_until(NAME)
        assert watching.stop(signal.SIGINT) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "nothing"], "no pipeline or relay is called 'nothing'; there are: payments"),
        (["run", "nothing"], "no pipeline is called 'nothing'; defined are: payments"),
        (["pause", "nothing", "--reason", "x"], "has never run in this store"),
        (["pause", NAME, "--reason", " "], "a pause needs a reason"),
        (["pause", NAME, "--reason", "x", "--actor", " "], "names nobody"),
        (["resume", NAME], "is not paused"),
        (["mode", NAME, "observed", "--share", "101", "--reason", "x"], "the share is 101"),
        (["mode", NAME, "never", "--reason", "x"], "never"),
        (["mode", NAME, "exactly-once", "--reason", "x"], "has that mode already"),
        (["seek", NAME, "--reason", "x"], "name one place"),
        (["seek", NAME, "nowhere", "--to", "1", "--reason", "x"], "has not read partition 'nowhere'"),
        (["quarantine", "show", NAME, FILE, "99"], "holds no message at position 99"),
        (["quarantine", "retry", NAME, "c-9", "--reason", "x"], "holds no message of key 'c-9'"),
        (["quarantine", "retry", NAME, "--reason", "x"], "name one of the two"),
        (["quarantine", "skip", NAME, FILE, "1", "--reason", " "], "needs a reason"),
        (["check", "--accept"], "needs the NAME"),
        (["accept-losses", NAME, FILE, "--reason", "x"], "has no lost messages"),
    ],
)
def test_bad_input_ends_in_one_line(read_project: CommandProject, arguments: list[str], said: str) -> None:
    """Every mistake on the command line ends with status 2 and one line that names it."""
    ended = read_project.run("pipeline", *arguments)
    assert ended.code == 2, ended.out
    assert said in ended.error


@pytest.fixture(scope="module")
def read_project(tmp_path_factory: pytest.TempPathFactory) -> CommandProject:
    """A project whose pipeline has read its file; the tests change nothing in it."""
    made = payments_at(tmp_path_factory.mktemp("read"))
    send(made, "a.jsonl", GOOD)
    taken(made)
    return made
