"""Test drift and reconciliation at the command line."""

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from reading_shop import SHELF, Amends, Shop, as_it_was, change, copy_of, one_line, project_at

from amends.cli.runtime.rule_context import now_ms

RULES = (
    SHELF
    + """

from amends import ScanFailed


@drift_rule("catalogue", every=timedelta(minutes=1))
async def catalogue_is_right(observation: Observation):
    raise ScanFailed("the library is closed")
"""
)


@pytest.fixture
def spoilt(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Amends:
    """Return the program on a copy of the shop whose read model lacks a run."""
    folder = copy_of(shop, tmp_path)
    change(folder, "DELETE FROM saga_index WHERE run_id = (SELECT min(run_id) FROM saga_index)")
    return Amends(folder, capsys)


def rows(folder: Path) -> list[str]:
    """Return every row of a store."""
    with closing(sqlite3.connect(folder / ".amends" / "events.db")) as connection:
        return list(connection.iterdump())


def test_drift_is_found_and_nothing_is_written(spoilt: Amends, tmp_path: Path) -> None:
    """Drift ends in exit status 1, and the store keeps its contents."""
    before = rows(tmp_path)
    answer = spoilt("drift", "read-model", "--json")
    assert answer.code == 1
    ((drift,),) = [each["drift"] for each in answer.json]
    assert drift["correction"] == "rebuild the rows of run order-accepted"
    assert "second scan" in drift["held"]
    assert spoilt("reconcile", "read-model", "--dry-run").code == 1
    assert rows(tmp_path) == before


def test_what_is_recorded_can_be_approved_and_is_corrected(spoilt: Amends) -> None:
    """A scan records drift; after an approval it is corrected; then there is none, and the scans can be read."""
    first = spoilt("reconcile", "read-model", "--json")
    assert first.code == 1
    name = first.json[0]["drift"][0]["id"]
    second = spoilt("reconcile", "read-model", "--approve", name)
    assert f"corrected {name} of order-accepted: rebuild the rows of run order-accepted" in second.out
    assert second.code == 0
    assert spoilt("drift", "read-model", "streams").code == 0
    assert spoilt("db", "check").code == 0
    scans = spoilt("reconciliations", "--json").json
    assert [(each["id"], each["corrected"]) for each in scans] == [("read-model:2", 1), ("read-model:1", 0)]
    kinds = [each["fact"] for each in spoilt("reconciliation", "read-model:2", "--json").json]
    assert kinds == ["DriftApproved", "RuleScanned", "CorrectionStarted", "DriftCorrected"]
    shown = spoilt("reconciliation", "read-model:1").out
    assert re.search(r"DriftDetected +\S+ +\S+ +\S+: different, .* expected, .* found; ", shown)
    assert re.search(
        r"RuleScanned .* saw 1; \S+ waits for a second scan that finds it, at least 10 s after the first$",
        shown,
        re.MULTILINE,
    )


def test_looks_are_read_from_the_end_and_without_the_rules(
    spoilt: Amends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past scans are listed page by page, newest first, also those of a rule that no longer exists."""
    monkeypatch.setattr("amends.cli.runtime.rule_context._PAGE", 2)
    for _ in range(4):
        spoilt("reconcile", "read-model")
    assert spoilt("reconcile", "streams").code == 0
    (tmp_path / "amends.toml").write_text("modules = []\n")
    found = [each["id"] for each in spoilt("reconciliations", "--json").json]
    assert found == ["streams:1", "read-model:4", "read-model:3", "read-model:2", "read-model:1"]
    assert [each["id"] for each in spoilt("reconciliations", "--limit", "2", "--json").json] == found[:2]
    (first,) = spoilt("reconciliations", "streams", "--json").json
    assert (first["seen"], first["mode"], first["scan_failed"]) == ([], "observe", None)
    assert [each["id"] for each in spoilt("reconciliations", "--found", "--limit", "2", "--json").json] == found[1:3]
    assert spoilt("reconciliations", "streams", "--found").err == "amends: no scan found drift\n"
    kinds = [each["fact"] for each in spoilt("reconciliation", "read-model:1", "--json").json]
    assert kinds == ["DriftDetected", "RuleScanned"]


def test_of_several_approvals_all_are_recorded_or_none(spoilt: Amends) -> None:
    """A misspelt id is refused with the list of open ones, and no other drift is approved by the same command."""
    name = spoilt("reconcile", "read-model", "--json").json[0]["drift"][0]["id"]
    answer = spoilt("reconcile", "read-model", "--approve", name, "--approve", "misspelt.1")
    assert answer.code == 2
    assert one_line(answer) == f"no open drift of these rules has the id 'misspelt.1'; open: {name}"
    assert "DriftApproved" not in spoilt("history", "reconciliation/read-model").out


def test_what_is_approved_and_gone_is_said(spoilt: Amends) -> None:
    """The approval of a drift that the scan does not find any more is reported, and nothing is corrected."""
    name = spoilt("reconcile", "read-model", "--json").json[0]["drift"][0]["id"]
    assert spoilt("db", "rebuild").code == 0
    answer = spoilt("reconcile", "read-model", "--approve", name)
    assert answer.code == 0
    assert answer.err == f"amends: drift {name} was approved, but the scan no longer finds it; nothing was corrected\n"
    assert spoilt("reconciliations", "--json").json[0]["corrected"] == 0


def test_what_is_ignored_is_no_drift_until_it_counts_again(spoilt: Amends) -> None:
    """An ignored subject is shown and does not count; without the entry it counts again."""
    assert spoilt("ignore", "add", "read-model", "order-accepted", "--reason", "being moved").code == 0
    (ignore,) = spoilt("ignore", "list", "--json").json
    assert (ignore["what"], ignore["reason"]) == ("order-accepted", "being moved")
    answer = spoilt("drift", "read-model")
    assert answer.code == 0
    assert "being moved" in answer.out
    assert spoilt("ignore", "remove", "read-model", "order-accepted").code == 0
    assert spoilt("drift", "read-model").code == 1


def test_an_ignore_of_nothing_and_one_that_is_over_are_told(spoilt: Amends, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that matches no open drift is reported as such, and the list reports an entry that has expired."""
    spoilt("reconcile", "read-model")
    misspelt = spoilt("ignore", "add", "read-model", "ordre-accepted", "--reason", "being moved")
    assert misspelt.code == 0
    assert misspelt.err.startswith("amends: no open drift has the id or subject 'ordre-accepted' now; ")
    assert spoilt("ignore", "add", "read-model", "order-accepted", "--reason", "moved", "--days", "1").err == ""
    assert "expired" not in spoilt("ignore", "list").out
    later = now_ms() + 2 * 86_400_000
    monkeypatch.setattr("amends.cli.commands.drift.ignore.now_ms", lambda: later)
    expired = {each["what"]: each["expired"] for each in spoilt("ignore", "list", "--json").json}
    assert expired == {"ordre-accepted": False, "order-accepted": True}
    assert re.search(r"order-accepted .* expired ", spoilt("ignore", "list").out)


def test_rules_of_the_project_are_found_and_correct_its_aggregates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], store_url: str
) -> None:
    """A rule that proposes waits for approval; a rule that cannot scan causes exit status 3, with or without drift."""
    # Python loads a module once, and an aggregate is defined once.
    module = f"shelf_rules_{store_url.partition(':')[0].partition('+')[0]}"
    (project_at(tmp_path, f'["{module}"]') / f"{module}.py").write_text(RULES)
    with as_it_was():
        os.environ["AMENDS_STORE_URL"] = store_url
        amends = Amends(tmp_path, capsys)
        assert amends("db", "upgrade").code == 0
        blind = amends("drift", "shelf", "catalogue")
        assert blind.code == 3
        assert "rule catalogue could not scan: the library is closed" in blind.err
        proposed = amends("reconcile", "shelf", "--json").json[0]["drift"][0]
        assert proposed["held"] == "waits for approval"
        assert f"amends reconcile shelf --approve {proposed['id']}" in amends("reconcile", "shelf").err
        done = amends("reconcile", "shelf", "--approve", proposed["id"], "--json")
        assert done.json[0]["corrected"][0]["changed"] == ["Shelf/s:1", "Shelf/s:2"]
        assert amends("drift", "shelf").code == 0
        assert amends("reconcile", "read-model", "streams", "attention", "overdue", "unserved", "driven").code == 0
        assert amends("drift", "--new", "read-model", "streams").code == 0
        assert amends("db", "check").code == 0
        # The project has lost its modules: the journal alone must show the writes and their cause.
        project_at(tmp_path)
        events = amends("history", "Shelf/s", "--json").json
        assert [each["event"] for each in events] == ["Shelf.Built", "Shelf.Filled"]
        assert events[1]["fields"] == {"books": 3, "drift": proposed["id"]}
        assert [each["position"] for each in amends("history", "Shelf/s:2", "--json").json] == [2]
        assert re.search(r"^2 .* Filled +books=3  drift=", amends("history", "Shelf/s").out, re.MULTILINE)
        assert "DriftCorrected" in amends("history", "reconciliation/shelf").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("drift", "nosuch"),
            "no drift rule 'nosuch'; there are: read-model, streams, attention, overdue, unserved, driven, orphans",
        ),
        (("reconcile", "--approve", "x.1"), "no open drift of these rules has the id 'x.1'; no drift is open"),
        (("reconcile", "--dry-run", "--approve", "x.1"), "cannot approve"),
        (
            ("reconcile", "--reason", "why not"),
            "--reason explains an approval, but the command approves nothing; add --approve ID",
        ),
        (("reconciliations", "nosuch"), "no scan by a rule 'nosuch' is recorded; no rule has scanned yet"),
        (("history", "Shelf/none"), "no stream is called 'Shelf/none' in this store"),
        (("history", "Shelf/none:0"), "no stream is called 'Shelf/none:0' in this store"),
        (("history", "Shelf/s", "--watch"), "--watch follows a run until it is closed, and 'Shelf/s' is not a run"),
        (("reconciliation", "streams"), "ids look like read-model:7"),
        (("reconciliation", "streams:99"), "no reconciliation 'streams:99'"),
        (("ignore", "add", "streams", "x", "--reason", " "), "a reason"),
        (("ignore", "add", "streams", "x", "--reason", "r", "--days", "nan"), "--days is nan"),
        (("ignore", "remove", "streams", "x"), "not ignored"),
    ],
)
def test_a_mistake_is_one_line(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    """Each mistake is reported in one line, with exit status 2."""
    folder = copy_of(shop, tmp_path)
    project_at(folder)
    answer = Amends(folder, capsys)(*arguments)
    assert answer.code == 2
    assert said in one_line(answer)
