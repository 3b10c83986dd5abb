"""A mutant of the core: a small wrong change, and the plan on which the search has to notice it."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from amends.aggregates.run.plan import Plan
from amends.sagas.prove.plans.plan_only import begin_plan
from amends.sagas.prove.search import Explored, Search
from amends.sagas.prove.story import Story, story_of

__all__ = ["Killed", "Mutant", "explored", "killed", "replace_everywhere"]

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A wrong change of the core.

    Attributes:
        fault: The fault of the core in a sentence without its full stop.
        law: Name of the law that it breaks first.
        plan: The plan on which it shows.
        patch: Changes the core.
        faults: The number of faults in one story.
        decisions: The number of decisions of operators in one story.
    """

    fault: str
    law: str
    plan: Plan
    patch: Patch
    faults: int = 1
    decisions: int = 0


@dataclass(frozen=True)
class Killed:
    """The shortest story in which a mutant breaks a law.

    Attributes:
        law: Name of the law.
        message: How the story breaks it.
        story: The story.
    """

    law: str
    message: str
    story: Story

    @property
    def line(self) -> str:
        """The faults and decisions of the story in one line."""
        moves = [line.text for line in self.story.lines if line.fault or line.text.startswith("an operator")]
        return "; ".join(moves) or "no fault"


def replace_everywhere(patch: pytest.MonkeyPatch, old: Callable[..., Any], new: object) -> None:
    """Replace a function in every module of the package that has imported it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("amends."):
            for attribute, value in list(vars(module).items()):
                if value is old:
                    patch.setattr(module, attribute, new)


@cache
def explored(plan: Plan, faults: int, decisions: int) -> Explored:
    """Explore a plan on the core as it is."""
    player, root = begin_plan(plan, faults=faults, decisions=decisions)
    return Search(player).explore(root)


def killed(mutant: Mutant) -> Killed | None:
    """Return the shortest story in which a mutant breaks a law; `None` if it survives."""
    with pytest.MonkeyPatch.context() as patch:
        mutant.patch(patch)
        player, root = begin_plan(mutant.plan, faults=mutant.faults, decisions=mutant.decisions)
        violations = Search(player).explore(root).violations
        if not violations:
            return None
        first = violations[0]
        return Killed(first.law.name, first.message, story_of(player, root, first.path))
