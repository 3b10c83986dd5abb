"""Test commands on a store with a damaged run: they show the readable part, name the rest, and list other runs."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from aggregate_parts.damaging import change, flip_state
from reading_shop import Amends, Shop
from sqlalchemy import Engine

from amends.aggregates.sql.engine import create_store_engine

RUN = "order-stuck"


@pytest.fixture
def damaged(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[tuple[Amends, Engine]]:
    """Yield the program on a copy of the shop, and the engine of its store."""
    folder = tmp_path / "copy"
    shutil.copytree(shop.folder, folder)
    engine = create_store_engine(f"sqlite:///{folder / shop.store.relative_to(shop.folder)}")
    yield Amends(folder, capsys), engine
    engine.dispose()


def lose(engine: Engine, position: int) -> None:
    """Remove a fact of the run."""
    here = "originator_id = :stream AND originator_version = :position"
    change(engine, f"DELETE FROM stored_events WHERE {here}", stream=f"run/{RUN}", position=position)  # noqa: S608 - a constant


def test_history_shows_the_facts_that_can_be_read(damaged: tuple[Amends, Engine]) -> None:
    """A missing fact and a changed one are named with their positions, all others are shown, and the status is 6."""
    amends, engine = damaged
    facts = {fact["position"]: fact for fact in amends("history", RUN, "--json").json}
    lose(engine, 2)
    flip_state(engine, f"run/{RUN}", 4)
    answer = amends("history", RUN, "--json")
    assert answer.code == 6
    shown = {fact["position"]: fact for fact in answer.json}
    assert list(shown) == sorted(facts)
    for position, fact in facts.items():
        if position in {2, 4}:
            assert shown[position]["problem"]
            assert shown[position]["remedy"]
        else:
            assert shown[position] == fact
    plain = amends("history", RUN)
    assert plain.code == 6
    assert "position 2: the event is missing" in plain.err
    assert "position 4: the stored event was changed" in plain.err
    assert len([line for line in plain.out.splitlines() if line.strip()[:1].isdigit()]) == len(facts) - 2


@pytest.mark.parametrize("command", ["show", "explain"])
def test_a_damaged_run_is_shown_as_it_was_before_the_damage(damaged: tuple[Amends, Engine], command: str) -> None:
    """The record is that of the facts before the first damage; without any fact, only the damage is shown."""
    amends, engine = damaged
    lose(engine, 4)
    answer = amends(command, RUN)
    assert answer.code == 6
    assert RUN in answer.out
    assert "position 4: the event is missing" in answer.err
    told = amends(command, RUN, "--json").json
    assert [damage["position"] for damage in told["damage"]] == [4]
    lose(engine, 1)
    answer = amends(command, RUN)
    assert answer.code == 6
    assert "position 1: the event is missing" in answer.err
    assert amends(command, "order-done").code == 0


def test_listings_name_the_damaged_run_and_show_the_others(damaged: tuple[Amends, Engine]) -> None:
    """`list --stuck` and `doctor` name it with the remedy, `list` lists it, and nothing hides the other runs."""
    amends, engine = damaged
    before = [run["run_id"] for run in amends("list", "--stuck", "--json").json]
    listed = amends("list", "--json").json
    lose(engine, 2)
    answer = amends("list", "--stuck", "--json")
    assert [run["run_id"] for run in answer.json] == before
    (named,) = [run for run in answer.json if run["damage"] is not None]
    assert (named["run_id"], named["damage"]["position"]) == (RUN, 2)
    assert "position 2: the event is missing" in " ".join(amends("list", "--stuck").out.split())
    assert amends("list", "--json").json == listed
    checks = amends("doctor", "--json").json["checks"]
    (damage,) = [check["found"] for check in checks if check["part"] == "damage"]
    assert RUN in damage
    assert "backup" in damage


def test_a_decision_about_a_damaged_run_is_refused_with_its_place(damaged: tuple[Amends, Engine]) -> None:
    """No decision is written to a run that cannot be read, and the exit status is that of damage."""
    amends, engine = damaged
    lose(engine, 2)
    answer = amends("retry", RUN, "--reason", "again", "--yes", "--actor", "ada")
    assert answer.code == 6
    assert "position 2: the event is missing" in answer.err
