"""The memory of a search changes no answer: only equal questions about the same objects are asked once."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from proving.core_plans import small_plans
from proving.plan_parts import effect_node, plan_of, transaction_node

from amends.aggregates.run.plan import Role
from amends.sagas.definition.participants import Contract
from amends.sagas.prove.plans.plan_only import begin_plan
from amends.sagas.prove.player import Player
from amends.sagas.prove.remembered.canon import Canon, Parts
from amends.sagas.prove.remembered.known import Known
from amends.sagas.prove.search import Explored, Search
from amends.sagas.prove.units import Units
from amends.sagas.prove.world import World

PART = 80


class ForgetfulUnits(Units):
    """Units that forget each result when the next one comes."""

    @contextmanager
    def remembering(self) -> Iterator[Known]:
        """Return a block with a memory of one answer."""
        self.known = Known(most=1)
        yield self.known


class OwnParts(Parts):
    """The parts of a world, none of which stands for those of another world."""

    @property
    def whole(self) -> World:
        """The world itself."""
        return self.world


class OwnCanon(Canon):
    """A canon that has a key for each world, and leaves the world as it is."""

    def of(self, world: World) -> Parts:
        """Return the parts of a world."""
        return OwnParts(*super().of(world))


def without_memory(player: Player, root: World) -> Explored:
    """Explore with units that forget, and in worlds of which no part stands for another one."""
    units = player.units
    search = Search(Player(ForgetfulUnits(units.registry, units.terms)))
    search._canon = OwnCanon(seen=True)
    return search.explore(root)


@pytest.mark.parametrize("contract", Contract)
@pytest.mark.parametrize("number", range(0, len(small_plans()), PART))
def test_a_search_with_memory_finds_the_same(number: int, contract: Contract) -> None:
    """States, stories, ends, coverage and broken laws with their stories are those of a search without memory."""
    player, root = begin_plan(
        small_plans()[number], contract=contract, probe_may_miss=True, faults=1, decisions=number % 2
    )
    assert Search(player).explore(root) == without_memory(player, root)


@pytest.mark.parametrize("number", [3, 111])
def test_two_runs_with_memory_find_the_same(number: int) -> None:
    """A run stands for no other run, even if both have the same plan and are equally far."""
    player, root = begin_plan(small_plans()[number], faults=1, runs=2)
    assert Search(player).explore(root) == without_memory(player, root)


def test_an_undo_stands_for_no_undo_of_another_key() -> None:
    """Calls stand for others with all that they refer to, and of two equal calls under way only one moves.

    A step that an operator had redone after a refusal has another key, and its undo has the same one as before.
    """
    plan = plan_of(effect_node("a", attempts=1, undo_attempts=1), transaction_node("t", undo=False, role=Role.PIVOT))
    player, root = begin_plan(plan, faults=2, decisions=1)
    assert Search(player).explore(root) == without_memory(player, root)


def test_an_answer_is_known_for_the_same_objects_only() -> None:
    """Equal objects that are not identical are another question, and so is another time."""
    known, one, other = Known(), ["equal"], ["equal"]
    assert known.answer("now", (one,), lambda: 1) == 1
    assert known.answer("now", (one,), lambda: 2) == 1
    assert known.answer("now", (other,), lambda: 3) == 3
    assert known.answer("then", (one,), lambda: 4) == 4


def test_answers_are_forgotten_when_there_are_too_many() -> None:
    """The memory of a long search has a bound."""
    known = Known(most=2)
    things = [[number] for number in range(3)]
    for number, thing in enumerate(things):
        known.keep("number", (thing,), number)
    assert [known.find("number", (thing,)) for thing in things] == [None, None, 2]
