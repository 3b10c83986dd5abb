"""Test definitions, the store and the doctor at the command line."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import temporalio.client
from reading_shop import (
    MODULE,
    Amends,
    Answer,
    Shop,
    change,
    copy_of,
    empty_store,
    one_line,
    project_at,
)

from amends.aggregates.sql.journal import open_journal
from amends.cli.project.settings import load_settings
from amends.cli.runtime.wiring import open_store
from amends.sagas.temporal.start_workflow import pollers, start_workflow
from amends.sagas.temporal.worker import running_worker

# ---- definitions


def test_sagas_are_listed_with_their_shape(amends: Amends) -> None:
    """Output that a module prints while it is loaded is not part of the answer."""
    answer = amends("sagas")
    assert answer.code == 0
    assert answer.err == "printed while loading\n" * ("printed" in answer.err)
    lines = [re.split(r"\s{2,}", line) for line in answer.out.splitlines()]
    shape = "reserve_stock > (charge_card | quote_shipping) > pivot confirm_order > retriable send_receipt"
    assert ["place-order", "Order", "5", "order_id", shape] in lines
    assert {plan["saga"] for plan in amends("sagas", "--json").json} == {"place-order", "cancel-order"}


def test_a_plan_is_described(amends: Amends) -> None:
    """Each step has its role, its compensation or the reason for none, its probe, and the policies both ways."""
    answer = amends("describe", "place-order")
    assert answer.code == 0
    rows = {line.split()[1]: re.split(r"\s{2,}", line)[2:] for line in answer.out.splitlines() if re.match(r"\d", line)}
    assert rows["charge_card"] == [
        "effect",
        "compensatable",
        "refund_card",
        "find_charge",
        "2 attempts, 200 ms x2 up to 30 s, timeout 10 s",
        "10 attempts, 200 ms x2 up to 1 min, timeout 10 s",
    ]
    assert rows["confirm_order"][:3] == ["transaction", "pivot", "decides"]
    plan = amends("describe", "place-order", "--json").json
    assert plan["fingerprint"] in answer.out
    assert amends("describe", "place-order", "--mermaid").out.startswith("flowchart TD\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plase-order"], "no saga is called 'plase-order'; did you mean 'place-order'?"),
        (["\x1b[31m"], "no saga is called '\\x1b[31m'; defined are: cancel-order, place-order"),
        (["place-order", "--mermaid", "--json"], "--mermaid excludes --json and --reachable"),
    ],
)
def test_an_unknown_saga_is_answered_with_its_near_misses(amends: Amends, arguments: list[str], said: str) -> None:
    """A saga that is not defined ends in one line that names one that is."""
    answer = amends("describe", *arguments)
    assert answer.code == 2
    assert said in one_line(answer)


def test_the_catalog_says_how_everything_is_undone(amends: Amends) -> None:
    """Every step is there once, with guarantee, compensation or the reason for none, probe, and owner."""
    entries = {entry["step"]: entry for entry in amends("catalog", "--json").json}
    assert list(entries) == ["charge_card", "confirm_order", "quote_shipping", "reserve_stock", "send_receipt"]
    assert entries["charge_card"]["undone_by"] == f"{MODULE}:refund_card"
    assert entries["charge_card"]["probe"] == f"{MODULE}:find_charge"
    assert entries["quote_shipping"]["undone_by"] == "nothing to undo: read-only"
    assert entries["reserve_stock"]["guarantee"] == "exactly once, in this store"
    out = amends("catalog").out
    assert "https://wiki.example/[stock]" in out
    assert "stock team" in out


@pytest.mark.parametrize("columns", range(80, 160, 5))
def test_the_catalog_breaks_no_name_for_lack_of_room(
    amends: Amends, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Policies move below the steps before any step's name is broken."""
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = amends("catalog").out.splitlines()
    rows = [line.split()[0] for line in lines[1:] if not line.startswith(" ")]
    assert rows == ["charge_card", "confirm_order", "quote_shipping", "reserve_stock", "send_receipt"]
    assert max(map(len, lines)) <= columns


# ---- the store


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["show", "x"], ["history", "x"], ["db", "check"]])
def test_a_store_that_is_not_there_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """Reading commands report that there is no store yet, name the command that creates one, and create none."""
    folder = project_at(tmp_path)
    answer = Amends(folder, capsys)(*arguments)
    assert answer.code == 3
    assert "does not exist yet; the first `amends run` or `amends dev` creates it" in one_line(answer)
    assert list(folder.iterdir()) == [folder / "amends.toml"]


def test_any_store_in_the_data_directory_is_made_by_the_first_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that reading commands suggest creates the store, with any file name."""
    folder = project_at(tmp_path)
    (folder / "amends.toml").write_text('store_url = "sqlite:///.amends/shop.db"\n')
    answer = Amends(folder, capsys)("list")
    assert answer.code == 3
    assert "the first `amends run` or `amends dev` creates it" in one_line(answer)
    asyncio.run(open_store(load_settings(folder)).close())
    assert "there are no runs yet" in Amends(folder, capsys)("list").err


def test_the_schema_is_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`db upgrade` creates a missing store, and has nothing to do the second time."""
    amends = Amends(project_at(tmp_path), capsys)
    first = amends("db", "upgrade", "--json").json
    assert (first["before"], first["changed"]) == (None, True)
    again = amends("db", "upgrade")
    assert again.code == 0
    assert "already" in again.out
    assert amends("db", "check").out.startswith("nothing wrong with sqlite:///")
    assert "there are no runs yet" in amends("list").err


def test_postgresql_is_upgraded_on_demand(
    postgres_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store on PostgreSQL without its schema is refused with the remedy, which then works."""
    monkeypatch.setenv("AMENDS_STORE_URL", postgres_url)
    amends = Amends(project_at(tmp_path), capsys)
    refused = amends("list")
    assert refused.code == 2
    assert "run `amends db upgrade`" in one_line(refused)
    found = amends("db", "check", "--json")
    assert found.code == 1
    assert "`amends db upgrade`" in found.json[0]["message"]
    assert amends("db", "upgrade").code == 0
    assert amends("list").code == 0
    assert amends("db", "check").code == 0


def test_damage_is_found_and_the_read_model_rebuilt(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row that differs from the journal is found, and fixed by a rebuild; a missing fact is found, and stays."""
    amends = Amends(copy_of(shop, tmp_path), capsys)
    assert amends("db", "check").code == 0
    change(tmp_path, "UPDATE saga_index SET status = 'COMPLETED' WHERE run_id = 'order-lost'")
    found = amends("db", "check")
    assert found.code == 1
    assert "read model  run/order-lost" in found.out
    assert "amends db rebuild" in found.err
    assert amends("db", "rebuild").code == 0
    assert amends("db", "check").code == 0
    change(tmp_path, "DELETE FROM stored_events WHERE originator_id = 'run/order-done' AND originator_version = 3")
    (gap,) = amends("db", "check", "--json").json
    assert (gap["kind"], gap["subject"]) == ("gap", "run/order-done")
    skipped = amends("db", "rebuild", "--json")
    assert skipped.code == 1
    assert [each["subject"] for each in skipped.json["skipped"]] == ["run/order-done"]


def test_a_file_that_is_no_database_is_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`db check` finds that the file is no database at all, and other commands refuse it in one line."""
    empty_store(tmp_path)
    (tmp_path / ".amends" / "events.db").write_bytes(b"not a database" * 1_000)
    amends = Amends(tmp_path, capsys)
    found = amends("db", "check", "--json")
    assert found.code == 1
    assert "not a valid SQLite database" in found.json[0]["message"]
    refused = amends("list")
    assert refused.code == 2
    assert "not a valid SQLite database" in one_line(refused)


# ---- doctor


def checks_of(answer: Answer) -> dict[str, list[tuple[bool, str]]]:
    """Return the results of the doctor, by part."""
    found: dict[str, list[tuple[bool, str]]] = {}
    for check in answer.json["checks"]:
        found.setdefault(check["part"], []).append((check["wrong"], check["found"]))
    return found


def test_a_project_that_is_new_is_in_order(tmp_path: Path, shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that are created on demand are not missing in a new project, and the doctor creates none itself."""
    folder = copy_of(shop, tmp_path, store=False)
    answer = Amends(folder, capsys)("doctor")
    assert answer.code == 0, answer.out
    assert "nothing wrong" in answer.out
    assert not (folder / ".amends").exists()


def test_the_doctor_finds_open_runs_without_a_worker(amends: Amends) -> None:
    """Runs that Temporal should drive and that no worker serves are a problem, and the remedy is named."""
    answer = amends("doctor", "--json")
    assert answer.code == 1
    found = checks_of(answer)
    assert found["modules"] == [(False, "2 sagas, 5 steps, 0 aggregates")]
    ((wrong, said),) = found["open runs"]
    assert not wrong
    assert re.fullmatch(r"3, the oldest \(order-hang\) accepted \d+ min ago", said)
    assert found["attention"][0][1].startswith("2 runs wait for an operator; see: amends list")
    assert found["workers"] == [
        (True, "no worker polls queue 'amends', but runs are open; start one: amends worker (or amends dev)")
    ]
    assert answer.json["wrong"] == 1


def test_the_doctor_misses_workers_of_a_configured_temporal(
    shop: Shop,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    temporal_address: str,
) -> None:
    """With a configured Temporal, a missing worker is a problem, whether or not runs are open."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_address)
    monkeypatch.setenv("AMENDS_TASK_QUEUE", "served-by-nobody")
    answer = Amends(copy_of(shop, tmp_path, store=False), capsys)("doctor", "--json")
    assert answer.code == 1
    assert checks_of(answer)["workers"] == [
        (
            True,
            "no worker polls queue 'served-by-nobody', so `amends run` accepts no run; start one: amends worker",
        )
    ]


def test_the_doctor_looks_at_everything_whatever_is_wrong(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that fails, a store that others may read and a Temporal that is away are all found in one go."""
    copy_of(shop, tmp_path)
    (tmp_path / "amends.toml").write_text('modules = ["broken_shop"]\n')
    (tmp_path / "broken_shop.py").write_text("import nothing_of_this_name\n")
    (tmp_path / ".amends" / "events.db").chmod(0o644)
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    answer = Amends(tmp_path, capsys)("doctor", "--json")
    assert answer.code == 1
    found = checks_of(answer)
    assert found["modules"][0][0]
    assert "nothing_of_this_name" in found["modules"][0][1]
    assert any(wrong and "mode 0644" in said for wrong, said in found["store"])
    assert any(not wrong and "can be read" in said for wrong, said in found["store"])
    assert found["temporal"][0][0]
    assert "127.0.0.1:1" in found["temporal"][0][1]


def test_the_doctor_names_the_step_that_holds_threads(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report of a worker whose calls wait for threads is a fault; without one there is none."""
    amends = Amends(copy_of(shop, tmp_path), capsys)
    report = tmp_path / ".amends" / "threads-4711.txt"
    report.write_text("calls wait for one of 4 threads: notify 3; charge holds 4 (longest 30 s)")
    assert checks_of(amends("doctor", "--json"))["threads"] == [(True, f"process 4711: {report.read_text()}")]
    report.unlink()
    ((wrong, said),) = checks_of(amends("doctor", "--json"))["threads"]
    assert (wrong, "is short of them" in said) == (False, True)


def test_the_doctor_keeps_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password is on no line of the answer, neither among the settings nor in the results."""
    monkeypatch.setenv("AMENDS_STORE_URL", "postgresql://ann:s3cret@127.0.0.1:1/shop?password=s3cret")
    answer = Amends(project_at(tmp_path), capsys)("doctor")
    assert answer.code == 1
    assert "s3cret" not in answer.out + answer.err
    assert "postgresql+psycopg://ann:***@127.0.0.1:1/shop" in answer.out


async def polled(client: temporalio.client.Client, queue: str) -> None:
    """Wait until Temporal has seen a worker, after the worker's first request for work."""
    while not await pollers(client, queue):  # noqa: ASYNC110 - Temporal offers no event for it
        await asyncio.sleep(0.05)


async def test_workers_and_their_stores_are_seen(
    temporal_address: str,
    shop: Shop,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`show` and `doctor` tell a worker of this store from one of another, and whether a run is driven."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_address)
    monkeypatch.setenv("AMENDS_TASK_QUEUE", "read-half")
    amends = Amends(copy_of(shop, tmp_path), capsys)
    client = await temporalio.client.Client.connect(temporal_address)

    async def seen() -> tuple[dict[str, Any], list[tuple[bool, str]]]:
        shown = await asyncio.to_thread(amends, "show", "order-accepted", "--json")
        return shown.json["driving"], checks_of(await asyncio.to_thread(amends, "doctor", "--json"))["workers"]

    driving, _ = await seen()
    assert driving["text"].startswith("nobody: no worker polls queue 'read-half'")
    other = open_journal(empty_store(tmp_path / "other"))
    async with running_worker(client, other, shop.project.registry, task_queue="read-half"):
        await polled(client, "read-half")
        driving, ((wrong, found),) = await seen()
        assert driving["text"].startswith("nobody: the workers of queue 'read-half' write to another store")
        assert wrong
        assert f"with another store ({other.store_id})" in found
    await other.close()

    monkeypatch.setenv("AMENDS_TASK_QUEUE", "read-half-2")
    ours = open_journal(f"sqlite:///{tmp_path}/.amends/events.db")
    async with running_worker(client, ours, shop.project.registry, task_queue="read-half-2"):
        await polled(client, "read-half-2")
        await start_workflow(
            client, saga="place-order", run_id="order-accepted", store_id=ours.store_id, task_queue="read-half-2"
        )
        driving, ((wrong, found),) = await seen()
        assert (driving["driven"], driving["workflow"], driving["workers"]) == (True, "RUNNING", 1)
        assert driving["text"] == "Temporal, with 1 worker"
        assert not wrong
        assert found.endswith(f"with store {ours.store_id}")
        await client.get_workflow_handle("order-accepted").terminate()
    await ours.close()
