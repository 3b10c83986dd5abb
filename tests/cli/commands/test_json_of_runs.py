"""Runs as JSON: the public objects and the commands print the same, and it can be read back."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from reading_shop import Amends, Shop

from amends import InputError, RunQuery, RunResult, RunSummary
from amends.aggregates.sql.journal import SqlJournal, open_journal


@pytest.fixture
def journal(shop: Shop) -> Iterator[SqlJournal]:
    """Yield the shop's store."""
    journal = open_journal(f"sqlite:///{shop.store}")
    yield journal
    journal.close_blocking()


def through_text(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a value as a reader of its JSON text receives it."""
    return json.loads(json.dumps(value, allow_nan=False))


def test_a_summary_is_the_row_of_list_and_can_be_read_back(journal: SqlJournal, amends: Amends) -> None:
    """`RunSummary.to_json` equals the object of `amends list --json`, and `from_json` restores the summary."""
    summaries = journal.runs_blocking(RunQuery(limit=1_000))
    assert len({summary.status for summary in summaries}) > 2
    assert [through_text(summary.to_json()) for summary in summaries] == amends(
        "list", "--limit", "1000", "--json"
    ).json
    assert [RunSummary.from_json(through_text(summary.to_json())) for summary in summaries] == list(summaries)


def test_a_result_is_a_part_of_show(journal: SqlJournal, amends: Amends) -> None:
    """`amends show --json` prints every key of `RunResult.to_json` with the same value, whatever state a run is in."""
    for summary in journal.runs_blocking(RunQuery(limit=1_000)):
        record = journal.record_blocking(summary.run_id)
        assert record is not None
        told = through_text(RunResult(record).to_json())
        shown = amends("show", summary.run_id, "--json").json
        assert {key: shown[key] for key in told} == told
        assert RunSummary.from_json(told) == summary
        assert told["input"] == record.started.input
        assert told["results"] == record.results


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "DONE"}, "'DONE' is not a status; use RUNNING, "),
        ({"position": ...}, "a run in JSON has no key 'position'; pass an object of `amends list --json`"),
    ],
)
def test_a_wrong_summary_is_refused(journal: SqlJournal, change: dict[str, Any], message: str) -> None:
    """An object that is no run ends in one line that names the key or the value."""
    (summary,) = journal.runs_blocking(RunQuery(limit=1))
    row = {key: value for key, value in {**summary.to_json(), **change}.items() if value is not ...}
    with pytest.raises(InputError) as refused:
        RunSummary.from_json(row)
    assert str(refused.value).startswith(message)
