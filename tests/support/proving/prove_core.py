"""Explore the core of Amends on many plans, and check that it keeps every law: `make prove`.

With participants that remember undos no story may break a law. With keyed ones exactly those may in which a call acts
after its undo or its probe, which no saga can know (see "The limits that nobody can remove" in the guarantees).
`SHARE=20` explores every twentieth plan only.
"""

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from amends.aggregates.run.plan import Plan
from amends.sagas.definition.participants import Contract
from amends.sagas.prove.coverage import Coverage, Row
from amends.sagas.prove.plans.plan_only import begin_plan
from amends.sagas.prove.search import Search
from amends.sagas.prove.story import Story, story_of
from proving.core_plans import RICH_PLANS, small_plans

__all__ = ["LIMITS", "Answer", "Task", "explore_task", "is_unknowable", "tasks"]

LIMITS = frozenset({"compensated means undone", "completed means once", "attention names what is open"})
"""The laws that a call which acts too late may break."""


class Task(NamedTuple):
    """One search."""

    plan: Plan
    contract: Contract
    faults: int
    decisions: int


class Answer(NamedTuple):
    """The result of one search: its numbers, the rows of the node table that it used, and the unexpected stories."""

    states: int
    scenarios: int
    used: frozenset[Row]
    limits: int
    unexpected: tuple[str, ...]


def tasks(share: int) -> Iterator[Task]:
    """Return the searches.

    Args:
        share: 1 for all, n for every nth.
    """
    small = small_plans()[::share]
    yield from (Task(plan, Contract.REMEMBERS_UNDO, 1, 1) for plan in small)
    yield from (Task(plan, Contract.KEYED, 1, 0) for plan in small)
    yield from (Task(plan, Contract.REMEMBERS_UNDO, 2, 1) for plan in list(RICH_PLANS.values())[::share])


def is_unknowable(story: Story) -> bool:
    """Check whether a call of a story acts after its undo or its probe has reached the participant."""
    asked: set[str] = set()
    for line in story.lines:
        node = line.text.partition("'")[2].partition("'")[0]
        if line.text.startswith(("the undo of", "the probe of")):
            asked.add(node)
        elif node in asked and line.text.startswith("the call of") and "it took effect" in line.text:
            return True
    return False


def explore_task(task: Task) -> Answer:
    """Explore one plan."""
    player, root = begin_plan(task.plan, contract=task.contract, faults=task.faults, decisions=task.decisions)
    found = Search(player).explore(root)
    limits, unexpected = 0, []
    for violation in found.violations:
        story = story_of(player, root, violation.path)
        if task.contract is Contract.KEYED and violation.law.name in LIMITS and is_unknowable(story):
            limits += 1
        else:
            shape = [[node.name for node in stage.nodes] for stage in task.plan.stages]
            unexpected.append(f"{shape} {task.contract}: {violation.law.name}: {violation.message}\n{story}")
    return Answer(found.states, found.scenarios, found.coverage.used, limits, tuple(unexpected))


def write(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Explore, print the numbers, and return 1 if a story breaks a law unexpectedly."""
    share = int(os.environ.get("SHARE", "1"))
    todo = list(tasks(share))
    began = time.monotonic()
    used: set[Row] = set()
    states = scenarios = limits = wrong = 0
    with ProcessPoolExecutor(max_workers=min(os.cpu_count() or 1, 8)) as pool:
        for done, answer in enumerate(pool.map(explore_task, todo, chunksize=4), 1):
            states, scenarios, limits = states + answer.states, scenarios + answer.scenarios, limits + answer.limits
            used |= answer.used
            for story in answer.unexpected:
                wrong += 1
                write(f"\n{story}")
            if done % 200 == 0:
                write(f"prove: {done} of {len(todo)} searches, {states:,} states")
    seconds = time.monotonic() - began
    write(
        f"prove: {len(todo)} searches, {states:,} states, {scenarios:,} stories in {seconds:.0f} s; "
        f"{Coverage(frozenset(used))}; {limits} limits of keyed participants; {wrong} unexpected"
    )
    unused = Coverage(frozenset(used)).unused
    write(f"prove: no story used: {', '.join(map(str, unused)) or 'none'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
