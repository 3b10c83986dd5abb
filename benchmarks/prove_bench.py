"""The search: stories per CPU second compared with real runs, and its states with the pure functions inside it."""

import time
from typing import NamedTuple

from figures import Effort, Row, in_turn, ratios
from measured import Order, mixed_steps, three_calls

from amends import Runner
from amends.aggregates.run.fact import Head
from amends.aggregates.run.state import RunState
from amends.aggregates.run.transitions import evolve
from amends.sagas.engine.decide import decide
from amends.sagas.prove.experiment import Experiment, Prepared
from amends.sagas.prove.player import Player
from amends.sagas.prove.search import Explored, Search
from amends.sagas.prove.units import Played
from amends.sagas.prove.world import World

__all__ = ["prove_rows"]

ORDER = Order(order_id="o-1", sku="A1", quantity=1)
CPU_BOUND_S = 0.3
STATES_BOUND = 0.06
STORIES_BOUND = 500


def cpu_of(prepared: Prepared) -> tuple[float, Explored]:
    """Explore everything; return CPU seconds and the result."""
    began = time.process_time()
    explored = Search(prepared.player).explore(prepared.root)
    return time.process_time() - began, explored


class Visited(NamedTuple):
    """The states that a search has met, and the facts that it has folded."""

    states: list[tuple[RunState, int]]
    folded: list[tuple[RunState, Head]]

    def cpu(self) -> float:
        """Decide and fold all of them again; return CPU seconds."""
        began = time.process_time()
        for state, now_ms in self.states:
            decide(state, now_ms)
        for before, head in self.folded:
            evolve(before, head)
        return time.process_time() - began


class Watching(Player):
    """A player that keeps what it plays."""

    def __init__(self, player: Player) -> None:
        super().__init__(player.units)
        self.visited = Visited([], [])

    def expand(self, world: World) -> list[Played]:
        """Return every move, and keep the states."""
        moves = super().expand(world)
        self.visited.states.extend((record.state, world.now_ms) for record in world.runs)
        for played in moves:
            self.visited.folded.extend((each.before.state, each.head) for each in played.appended)
        return moves


async def prove_rows(effort: Effort) -> list[Row]:
    """Measure the search."""
    faults = 2 if effort.share >= 1 else 1
    return [await all_stories(effort, faults), await states(effort, faults), await stories(effort, faults)]


async def all_stories(effort: Effort, faults: int) -> Row:
    """Compare the time for all stories of a saga as in the README with the bound of its page."""

    async def explore(_: int) -> float:
        prepared = Experiment(saga=mixed_steps, input=ORDER, faults=faults).prepare()
        return cpu_of(prepared)[0] / CPU_BOUND_S

    (parts,) = await in_turn(effort.rounds, explore)
    what = f"search: CPU seconds for all stories of the README's saga with {faults} faults"
    return Row(what, f"{CPU_BOUND_S:g} s", parts, 1, at_least=False)


async def states(effort: Effort, faults: int) -> Row:
    """Compare the states per second of a search with `decide` and `evolve` alone on the same states."""
    prepared = Experiment(saga=three_calls, input=ORDER, faults=faults).prepare()
    watching = Watching(prepared.player)
    Search(watching).explore(prepared.root)

    async def search(_: int) -> float:
        return 1 / cpu_of(Experiment(saga=three_calls, input=ORDER, faults=faults).prepare())[0]

    async def alone(_: int) -> float:
        return 1 / watching.visited.cpu()

    found = await in_turn(effort.rounds, search, alone)
    what = f"search: states of a saga of three effects per CPU second, {faults} faults"
    return Row(what, "`decide` and `evolve` alone on the same states and facts", ratios(*found), STATES_BOUND)


async def stories(effort: Effort, faults: int) -> Row:
    """Compare stories per CPU second with real runs on a store in memory."""
    count = effort.of(200)
    async with Runner.open([three_calls], store_url="sqlite://") as runner:

        async def search(_: int) -> float:
            spent, explored = cpu_of(Experiment(saga=three_calls, input=ORDER, faults=faults).prepare())
            return explored.scenarios / spent

        async def run(number: int) -> float:
            began = time.process_time()
            for each in range(count):
                run_id = f"{number}-{each}"
                await runner.run(three_calls, Order(order_id=run_id, sku="A1", quantity=1), id=run_id)
            return count / (time.process_time() - began)

        found = await in_turn(effort.rounds, search, run)
    what = f"search: stories of a saga of three effects per CPU second, {faults} faults"
    return Row(what, "`Runner` on SQLite in memory: runs per CPU second", ratios(*found), STORIES_BOUND)
