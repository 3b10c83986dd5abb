"""`@prove` and its pytest plugin: one item per contract, and a failing item that shows the shortest story."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT
from runs.proved_shop import ORDER, PAYMENT, StockItem, charge_card, place_order

from amends import Contract, InputError, Rejected
from amends.testing import BrokenLawError, End, prove

TESTS = '''
"""Tests of a shop."""

import pytest
from runs.proved_shop import ORDER, PAYMENT, StockItem, place_order

from amends import Contract
from amends.testing import End, prove

GIVEN = [StockItem("teapot", free=10)]


@prove(place_order, ORDER, given=GIVEN, faults=1, contracts={PAYMENT: list(Contract)})
def test_stock(end: End) -> None:
    """Check the stock."""
    assert end.aggregate(StockItem, "teapot").free == (9 if end.completed else 10)


@prove(place_order, ORDER, given=GIVEN, faults=0)
def test_wrong(end: End) -> None:
    """Check something wrong."""
    assert not end.completed, "it is completed"


@pytest.mark.skip(reason="not today")
@prove(place_order, ORDER, given=GIVEN)
def test_skipped(end: End) -> None:
    """Check nothing."""


@prove(place_order, ORDER, faults=0, contracts={"bank": Contract.KEYED})
def test_unknown(end: End) -> None:
    """Check nothing, with a wrong argument."""


@prove(place_order, ORDER, given=GIVEN, faults=9, seconds=1)
def test_sampled(end: End) -> None:
    """Check in too little time."""
'''


class Ended:
    """A run of pytest over the tests of the shop."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        (folder / "test_shop.py").write_text(TESTS, encoding="utf-8")
        support = os.pathsep.join([str(ROOT / "tests" / "support"), str(ROOT / "src")])
        self.out = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "amends.pytest_plugin", "-p", "no:cacheprovider", "-rA", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": support},
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    def failure(self, item: str) -> str:
        """Return the report of a failed item."""
        sections = re.split(r"^(?:_+|=+) (.*) (?:_+|=+)$", self.out, flags=re.MULTILINE)
        return dict(zip(sections[1::2], sections[2::2], strict=True))[item]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Run all tests of the shop once."""
    return Ended(tmp_path_factory.mktemp("shop"))


def test_each_contract_is_one_item(ended: Ended) -> None:
    """The item names its contracts, and each passes or fails alone."""
    assert "PASSED test_shop.py::test_stock[payment=remembers-undo]" in ended.out
    assert "PASSED test_shop.py::test_stock[payment=keyed]" in ended.out
    assert "FAILED test_shop.py::test_stock[payment=forgetful]" in ended.out


def test_a_failing_item_shows_the_story(ended: Ended) -> None:
    """The report has the law, the story in words, the facts, the books and a token, and no traceback."""
    shown = ended.failure("test_stock[payment=forgetful]")
    for part in ("Broken law: ", "1 fault:", "the network keeps a copy", "StepStarted", "payment      charge_card"):
        assert part in shown
    assert "Traceback" not in shown
    assert "proof.py" not in shown


def test_a_broken_invariant_shows_its_own_message(ended: Ended) -> None:
    """The message of the user's assertion stands next to the story."""
    shown = ended.failure("test_wrong")
    assert "it is completed" in shown
    assert "with 0 faults" in shown


def test_marks_of_pytest_apply(ended: Ended) -> None:
    """A mark above the decorator has its usual effect."""
    assert re.search(r"SKIPPED \[1\] .*: not today", ended.out)


def test_a_wrong_argument_is_one_line(ended: Ended) -> None:
    """An argument that does not fit fails the item with the line of the error."""
    (line,) = ended.failure("test_unknown[bank=keyed]").strip().splitlines()
    assert line.startswith("contracts={'bank': ...}: no effect of the saga calls this participant")


def test_a_sampled_search_warns(ended: Ended) -> None:
    """A search that could not explore everything passes with a warning that says so."""
    assert "PASSED test_shop.py::test_sampled" in ended.out
    assert re.search(r"SampledWarning: place-order: sampled; .* random stories with seed 0", ended.out)


def test_a_token_plays_its_story_in_the_test(ended: Ended, tmp_path: Path) -> None:
    """The printed command plays the story, and shows it as the failure of the item."""
    found = re.search(r"replay: pytest '(test_shop.py::test_stock\[.*?\])' (--prove-replay \S+)", ended.out)
    assert found is not None
    again = Ended(tmp_path, found[1], *found[2].split()).out
    assert "the network keeps a copy" in again
    assert "1 failed" in again


def test_the_decorated_function_works_without_pytest() -> None:
    """Calling the test explores every case, and raises the report of the first one that breaks a law."""

    @prove(place_order, ORDER, given=[StockItem("teapot", free=10)], faults=1, contracts={PAYMENT: list(Contract)})
    def in_stock(end: End) -> None:
        assert end.aggregate(StockItem, "teapot").free >= 9

    with pytest.raises(BrokenLawError, match="payment: forgetful"):
        in_stock()


def test_results_and_always_reach_the_search() -> None:
    """A replaced function and a law for every state have their effect."""
    seen: set[str] = set()

    def collect(end: End) -> None:
        seen.add(end.run.status.value)

    @prove(
        place_order,
        ORDER,
        given=[StockItem("teapot", free=10)],
        faults=0,
        results={charge_card: Rejected("no")},
        always=collect,
    )
    def undone(end: End) -> None:
        assert end.compensated

    undone()
    assert seen >= {"RUNNING", "COMPENSATED"}


@pytest.mark.parametrize("contracts", [{PAYMENT: []}, {PAYMENT: "keyed"}, {"payment": [Contract.KEYED, None]}])
def test_a_wrong_contract_is_refused_in_one_line(contracts: Any) -> None:  # noqa: ANN401 - anything wrong
    """A value that is no contract is refused, and the message lists the contracts."""

    @prove(place_order, ORDER, contracts=contracts)
    def nothing(_: End) -> None: ...

    with pytest.raises(InputError, match=r"'payment'.*: use one of Contract.REMEMBERS_UNDO"):
        nothing()
