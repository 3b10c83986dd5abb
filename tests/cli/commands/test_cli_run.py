"""Test `amends run`: one run and many, followed to their end, on pipes and on terminals."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from commands import AMENDS, CommandProject, shop_at
from forked import run_on_terminal

from amends.aggregates.journal import RunQuery
from amends.aggregates.run.record import RunSummary
from amends.aggregates.sql.journal import open_journal
from amends.sagas.temporal.server.embedded_server import running

MODULE = """
import asyncio
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from amends import Attempted, Call, Done, Rejected, Retry, Saga, UnitOfWork, effect, transaction

ONCE = Retry(max_attempts=1)


class Order(BaseModel):
    order_id: str = "none"
    fail: str = ""
    gate: str = ""


@transaction
def note_down(order: Order, uow: UnitOfWork) -> str:
    return order.order_id


@note_down.compensation
def strike_out(done: Done[Order, str], uow: UnitOfWork) -> None:
    pass


@effect(retry=Retry(max_attempts=2, first=timedelta(milliseconds=10)), timeout=timedelta(seconds=20))
async def pack(order: Order, call: Call) -> str:
    while order.gate and not Path(order.gate).exists():
        await asyncio.sleep(0.02)
    if order.fail == "flaky" and call.attempt == 1:
        raise RuntimeError("once")
    if order.fail == "lost":
        raise TimeoutError("no answer")
    return f"parcel of {order.order_id}"


@pack.compensation(retry=ONCE)
async def unpack(tried: Attempted[Order, str], call: Call) -> None:
    if tried.input.fail == "stuck":
        raise RuntimeError("glued")


@transaction
def send(order: Order, uow: UnitOfWork) -> None:
    if order.fail in {"rejected", "stuck"}:
        raise Rejected("no [red]lorry[/red] \\x1b[2Jleft")


@send.compensation
def call_back(done: Done[Order, None], uow: UnitOfWork) -> None:
    pass


ship = Saga("ship", Order, note_down, pack, send, keys=("order_id",))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandProject]:
    """Yield a project in which `amends dev` runs."""
    project = shop_at(tmp_path_factory.mktemp("run") / "shop", MODULE)
    with project.started("dev") as dev:
        dev.read_until("Ready")
        yield project


@pytest.fixture
def project(tmp_path: Path) -> CommandProject:
    """Return a project in which no program runs."""
    return shop_at(tmp_path / "shop", MODULE)


def runs(project: CommandProject, saga: str = "ship") -> list[RunSummary]:
    """List every run in the project's store."""
    journal = open_journal(project.store_url)
    try:
        return journal.runs_blocking(RunQuery(saga=saga, limit=1_000))
    finally:
        journal.close_blocking()


def words(text: str) -> list[str]:
    """Return the words without times, which differ from run to run."""
    return [line.split(" s  ", 1)[-1] for line in text.splitlines()[:-1]]


# ---- one run


def test_a_run_brings_its_own_server_and_worker(project: CommandProject) -> None:
    """Without configuration and without a server, one command is enough, and it leaves no process behind."""
    ended = project.run("run", "ship", '{"order_id": "o-1"}', "--id", "run-1")
    assert (ended.code, ended.err) == (0, "")
    assert words(ended.out) == [
        "run run-1 of ship accepted",
        "note_down: succeeded",
        "pack: attempt 1 started",
        "pack: succeeded",
        "send: succeeded",
        "completed",
    ]
    assert ended.out.splitlines()[-1].startswith("COMPLETED: run run-1 of ship in ")
    assert running(project.path / ".amends") is None
    assert project.open_runs() == []


def test_a_compensated_run_ends_in_4(served: CommandProject) -> None:
    """The refusal, the way back and the reason are shown; text of users can neither colour nor clear the screen."""
    ended = served.run("run", "ship", '{"fail": "rejected"}', "--id", "refused-1")
    assert (ended.code, ended.err) == (4, "")
    assert words(ended.out)[4:] == [
        "send: refused: no [red]lorry[/red] ?[2Jleft",
        "turning back: undoing the steps that may have acted",
        "undo of pack: attempt 1 started",
        "undo of pack: undone",
        "undo of note_down: undone",
        "compensated",
    ]
    assert "send: no [red]lorry[/red] ?[2Jleft" in ended.out.splitlines()[-1]


def test_what_was_undone_in_doubt_is_said(served: CommandProject) -> None:
    """Every command that shows a compensated run with a result in doubt marks it as different from a clean one."""
    ended = served.run("run", "ship", '{"fail": "lost"}', "--id", "doubt-1")
    assert (ended.code, ended.err) == (4, "")
    assert "; undone with unknown outcome: pack; its facts: " in ended.out.splitlines()[-1]
    served.write("doubt.jsonl", '{"fail": "lost", "order_id": "d-2"}\n{"fail": "rejected", "order_id": "d-2"}\n')
    lost, clean = sorted(served.run("run", "ship", "@doubt.jsonl").out.splitlines()[:-1])
    assert lost.endswith("; undone with unknown outcome: pack")
    assert "knowing" not in clean
    assert json.loads(served.run("run", "ship", '{"fail": "lost"}', "--id", "doubt-1", "--json").out)["in_doubt"] == [
        "pack"
    ]
    assert json.loads(served.run("show", "doubt-1", "--json").out)["in_doubt"] == ["pack"]
    assert "\nin doubt    pack; amends explain doubt-1 says why\n" in served.run("show", "doubt-1").out
    assert "pack: undone with unknown outcome: no attempt" in served.run("explain", "doubt-1").out


def test_a_run_that_needs_attention_ends_in_5(served: CommandProject) -> None:
    """The last line names the open nodes and the command that shows them."""
    ended = served.run("run", "ship", '{"fail": "stuck"}', "--id", "stuck-1")
    assert (ended.code, ended.err) == (5, "")
    last = ended.out.splitlines()[-1]
    assert last.startswith("NEEDS_ATTENTION: run stuck-1 of ship: open steps pack: ")
    assert "RuntimeError: glued" in last
    assert last.endswith("amends show stuck-1")


def test_attempts_are_shown(served: CommandProject) -> None:
    """A failed attempt shows its error and the time of the next one."""
    ended = served.run("run", "ship", '{"fail": "flaky"}')
    assert ended.code == 0
    assert "pack: attempt 1 failed: RuntimeError: once; again in 0.0 s" in words(ended.out)
    assert "pack: attempt 2 started" in words(ended.out)


def test_json_is_all_there_is_on_stdout(served: CommandProject) -> None:
    """With --json stdout holds the outcome for a program, and no other text."""
    ended = served.run("run", "ship", '{"order_id": "o-2"}', "--id", "json-1", "--json")
    assert (ended.code, ended.err) == (0, "")
    answer = json.loads(ended.out)
    assert (answer["run_id"], answer["saga"], answer["status"]) == ("json-1", "ship", "COMPLETED")
    assert (answer["error"], answer["open"], answer["keys"]) == (None, [], {"order_id": "o-2"})
    assert answer["results"] == {"note_down": "o-2", "pack": "parcel of o-2", "send": None}


def test_the_same_id_finds_the_same_run(served: CommandProject) -> None:
    """A command that is run twice acts once; with another input, the second is refused."""
    first = served.run("run", "ship", '{"order_id": "o-3"}', "--id", "twice-1")
    again = served.run("run", "ship", '{"order_id": "o-3"}', "--id", "twice-1")
    assert (first.code, again.code) == (0, 0)
    assert "was started before" not in first.out
    assert "twice-1 was started before" in again.out
    other = served.run("run", "ship", '{"order_id": "o-4"}', "--id", "twice-1")
    assert other.code == 2
    assert "o-3" in other.error
    assert [row.run_id for row in runs(served)].count("twice-1") == 1


@pytest.mark.parametrize("way", ["argument", "file", "stdin", "field"])
def test_an_input_may_come_from_anywhere(served: CommandProject, way: str) -> None:
    """JSON comes from the command line, a file or standard input; the id comes from an option or the input."""
    text = json.dumps({"order_id": f"from-{way}"})
    served.write("order.json", text)
    arguments = {"file": ["@order.json"], "stdin": ["-"]}.get(way, [text])
    arguments += ["--id-field", "order_id"] if way == "field" else ["--id", f"from-{way}"]
    ended = served.run("run", "ship", *arguments, "--json", stdin=text)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["run_id"] == f"from-{way}"


def test_a_detached_run_goes_on(served: CommandProject) -> None:
    """--detach ends when the run is accepted; the worker brings it to its end."""
    gate = served.path / "gate-detached"
    ended = served.run("run", "ship", json.dumps({"gate": str(gate)}), "--id", "detached-1", "--detach")
    assert (ended.code, ended.err) == (0, "")
    assert "detached-1 of ship is accepted" in ended.out
    gate.touch()
    assert served.run("run", "ship", json.dumps({"gate": str(gate)}), "--id", "detached-1").code == 0


def test_a_timeout_ends_the_waiting_and_not_the_run(served: CommandProject) -> None:
    """A command with a run that takes longer than --timeout ends in status 3, and the run continues."""
    gate = served.path / "gate-timeout"
    order = json.dumps({"gate": str(gate)})
    ended = served.run("run", "ship", order, "--id", "late-1", "--timeout", "0.5")
    assert ended.code == 3
    assert ended.error.startswith("amends: run late-1 is RUNNING after 0.5 s: it continues")
    gate.touch()
    assert served.run("run", "ship", order, "--id", "late-1").code == 0


def test_ctrl_c_leaves_a_run_that_goes_on_later(project: CommandProject) -> None:
    """Ctrl-C ends in status 130 and reports that the run is accepted; the next worker brings it to its end."""
    gate = project.path / "gate"
    order = json.dumps({"gate": str(gate)})
    with project.started("run", "ship", order, "--id", "broken-off-1") as command:
        command.read_until("pack: attempt 1 started")
        assert command.stop(signal.SIGINT) == 130
        assert "amends: interrupted; run broken-off-1 is accepted: it continues when a worker runs again" in "".join(
            command.lines
        )
    assert [row.run_id for row in project.open_runs()] == ["broken-off-1"]
    gate.touch()
    ended = project.run("run", "ship", order, "--id", "broken-off-1")
    assert ended.code == 0
    assert project.open_runs() == []


def test_a_reader_that_goes_away_does_not_hurt_the_run(served: CommandProject) -> None:
    """A closed pipe ends the command; the run continues."""
    with subprocess.Popen(
        [AMENDS, "run", "ship", "{}", "--id", "unread-1"],
        cwd=served.path,
        env=served.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 141
    assert served.run("run", "ship", "{}", "--id", "unread-1").code == 0


# ---- a file of runs


def write_lines(project: CommandProject, name: str, orders: Sequence[dict[str, str]]) -> None:
    """Write a file with one input on each line."""
    project.write(name, "".join(f"{json.dumps(order)}\n" for order in orders))


def test_each_line_of_a_file_is_a_run(served: CommandProject) -> None:
    """Every line has a result line, the worst run decides the status, and equal lines are different runs."""
    write_lines(
        served, "mixed.jsonl", [{"order_id": "m-1"}, {"order_id": "m-2", "fail": "rejected"}, {"order_id": "m-1"}]
    )
    ended = served.run("run", "ship", "@mixed.jsonl")
    assert (ended.code, ended.err) == (4, "")
    *lines, last = ended.out.splitlines()
    assert sorted(line.split()[:2] for line in lines) == [
        ["mixed.jsonl:1", "COMPLETED"],
        ["mixed.jsonl:2", "COMPENSATED"],
        ["mixed.jsonl:3", "COMPLETED"],
    ]
    assert "no [red]lorry[/red] ?[2Jleft" in next(line for line in lines if "COMPENSATED" in line)
    assert last.startswith("3 runs in ")
    assert "1 COMPENSATED, 2 COMPLETED" in last
    ids = [line.split()[2] for line in lines]
    assert len(set(ids)) == 3
    # All lines share the columns of one table, whichever line ends first.
    assert len({line.index(run_id) for line, run_id in zip(lines, ids, strict=True)}) == 1


def test_a_file_that_is_run_again_starts_only_what_is_new(served: CommandProject) -> None:
    """Ids come from the content of the lines: a line that moves or changes its spacing starts no second run."""
    write_lines(served, "grown.jsonl", [{"order_id": "g-1"}, {"order_id": "g-2"}])
    first = served.run("run", "ship", "@grown.jsonl", "--json")
    served.write("grown.jsonl", '{"order_id": "g-3"}\n\n{"order_id":"g-2"}\n{"order_id": "g-1"}\n')
    second = served.run("run", "ship", "@grown.jsonl", "--json")
    assert (first.code, second.code) == (0, 0)
    before, after = json.loads(first.out), json.loads(second.out)
    assert {each["run_id"] for each in before} < {each["run_id"] for each in after}
    assert [each["place"] for each in after] == ["grown.jsonl:1", "grown.jsonl:3", "grown.jsonl:4"]
    known = [row for row in runs(served) if row.keys["order_id"].startswith("g-")]
    assert sorted(row.keys["order_id"] for row in known) == ["g-1", "g-2", "g-3"]


@pytest.mark.parametrize(
    ("line", "options", "says"),
    [
        ('{"order_id": 5}', [], "lines.jsonl:2: input of saga 'ship'"),
        ("{", [], "lines.jsonl:2: input of saga 'ship': not JSON"),
        ('{"order_id": "a/b"}', ["--id-field", "order_id"], "lines.jsonl:2: run id 'a/b'"),
        ('{"order_id": "l-1"}', ["--id-field", "order_id"], "lines.jsonl:2: id 'l-1' is that of lines.jsonl:1"),
        ('{"fail": ""}', ["--id-field", "order_id"], "lines.jsonl:2: --id-field order_id"),
    ],
    ids=["type", "syntax", "id", "same id", "no id"],
)
def test_one_bad_line_starts_nothing(project: CommandProject, line: str, options: list[str], says: str) -> None:
    """All lines are checked before the first run is accepted, and the bad one is named."""
    project.write("lines.jsonl", f'{{"order_id": "l-1"}}\n{line}\n')
    ended = project.run("run", "ship", "@lines.jsonl", *options)
    assert ended.code == 2
    assert says in ended.error
    assert ended.error.endswith("nothing was started")
    assert not (project.path / ".amends").exists()


def test_an_empty_file_is_refused(project: CommandProject) -> None:
    """A file without lines is a mistake, not a success."""
    project.write("lines.jsonl", "\n \n")
    ended = project.run("run", "ship", "@lines.jsonl")
    assert ended.code == 2
    assert "has no lines" in ended.error


@pytest.mark.soak
def test_more_lines_than_run_at_once_all_run(served: CommandProject) -> None:
    """A file with more lines than runs at a time is run to its end, with ids that the caller chooses."""
    write_lines(served, "many.jsonl", [{"order_id": f"n-{number}"} for number in range(60)])
    ended = served.run("run", "ship", "@many.jsonl", "--id-field", "order_id", "--id", "day7", "--json")
    assert ended.code == 0, ended.err
    answer = json.loads(ended.out)
    assert [each["run_id"] for each in answer] == [f"day7-n-{number}" for number in range(60)]
    assert {each["status"] for each in answer} == {"COMPLETED"}


# ---- on a terminal


def on_a_terminal(project: CommandProject, *arguments: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run the program on a terminal of its own, and return its status and all its output."""
    environment = {**project.environment, "TERM": "xterm", "COLUMNS": "100", **(env or {})}
    return run_on_terminal(arguments, folder=project.path, environment=environment)


def test_a_terminal_shows_steps_and_then_their_undo(served: CommandProject) -> None:
    """Rows are drawn again while the run continues; markup and control characters of users stay text."""
    code, drawn = on_a_terminal(served, "run", "ship", '{"fail": "rejected"}')
    assert code == 4
    assert "\x1b[1A" in drawn
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    last = plain[plain.rindex("✗ send") :].splitlines()
    assert "refused: no [red]lorry[/red] ?[2Jleft" in last[0]
    assert [line.split("  ")[0].rstrip() for line in last[1:3]] == ["✓ undo of pack", "✓ undo of note_down"]
    assert last[3].startswith("COMPENSATED: run ")
    assert "\x1b[2J" not in drawn
    assert "\x1b[31m" not in drawn  # NO_COLOR is set


def test_colours_are_those_of_the_status(served: CommandProject) -> None:
    """Without NO_COLOR a compensated run's line is yellow."""
    code, drawn = on_a_terminal(served, "run", "ship", '{"fail": "rejected"}', env={"NO_COLOR": ""})
    assert code == 4
    assert "\x1b[33mCOMPENSATED: run " in drawn


def test_a_file_of_runs_has_a_progress_bar(served: CommandProject) -> None:
    """On a terminal each run's line stands above a bar that counts them."""
    write_lines(served, "bar.jsonl", [{"order_id": "b-1"}, {"order_id": "b-2"}])
    code, drawn = on_a_terminal(served, "run", "ship", "@bar.jsonl")
    assert code == 0
    assert "2/2" in drawn
    assert len(re.findall(r"COMPLETED +bar-", drawn)) == 2


def test_nothing_stays_open(served: CommandProject) -> None:
    """After all tests above, every run comes to an end; the test's own timeout ends a wait in vain."""
    while served.open_runs():
        time.sleep(0.05)
