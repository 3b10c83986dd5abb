"""A story in plain words: its moves, the facts that they append, and the participants' books at its end. Pure."""

from typing import NamedTuple

from amends.aggregates.errors import InputError
from amends.aggregates.run.facts import Fact
from amends.sagas.prove.books import Page
from amends.sagas.prove.player import Player
from amends.sagas.prove.units import Played
from amends.sagas.prove.world import World

__all__ = ["BookLine", "Story", "StoryLine", "story_of"]


class StoryLine(NamedTuple):
    """One move of a story.

    Attributes:
        text: The move in words.
        fault: Whether it is a fault, or a request to cancel.
        run: Id of the run.
        facts: The facts that it appended.
    """

    text: str
    fault: bool
    run: str
    facts: tuple[Fact, ...]


class BookLine(NamedTuple):
    """One page of the participants' books.

    Attributes:
        participant: Name of the participant; `store` for a transaction.
        node: The node.
        key: The idempotency key; for a transaction, the run and the node.
        acted: How often it took effect.
        undone: How often it was undone.
    """

    participant: str
    node: str
    key: str
    acted: int
    undone: int

    def __str__(self) -> str:
        return f"{self.participant}: {self.key} acted {self.acted}, undone {self.undone}"


class Story(NamedTuple):
    """A story.

    Attributes:
        lines: Its moves.
        statuses: The statuses of the runs at its end.
        facts: All facts of all runs, in order.
        books: The participants' books at its end.
        world: The world at its end.
    """

    lines: tuple[StoryLine, ...]
    statuses: tuple[str, ...]
    facts: tuple[Fact, ...]
    books: tuple[BookLine, ...]
    world: World

    def __str__(self) -> str:
        return "\n".join(
            f"{number:>3} {'!' if line.fault else ' '} {line.text}{_facts(line.facts)}"
            for number, line in enumerate(self.lines, 1)
        )


def story_of(player: Player, root: World, path: tuple[int, ...]) -> Story:
    """Return the story of a path.

    Args:
        player: Plays the moves.
        root: The world in which the story begins.
        path: The index of each move among the moves that were possible.

    Raises:
        InputError: The path does not fit the saga.
    """
    world, lines = root, []
    for choice in path:
        moves = player.expand(world)
        if choice >= len(moves):
            raise InputError(
                "the story does not fit this saga: it or Amends has changed since, or the arguments differ; "
                "explore the saga again"
            )
        played = moves[choice]
        lines.append(_line(played))
        world = played.world
    facts = (*(record.started for record in root.runs), *(fact for line in lines for fact in line.facts))
    books = tuple(_book_line(player, world, key, page) for key, page in sorted(world.books.pages.items()))
    statuses = tuple(record.state.status.value for record in world.runs)
    return Story(tuple(lines), statuses, facts, books, world)


def _line(played: Played) -> StoryLine:
    move = played.move
    run_id = played.before.runs[move.run].run_id
    return StoryLine(str(move), bool(move.kind.cost), run_id, tuple(each.fact for each in played.appended))


def _book_line(player: Player, world: World, key: str, page: Page) -> BookLine:
    step = world.runs[page.run].state.plan.nodes[page.node].step
    terms = player.terms.get(step)
    return BookLine("store" if terms is None else terms.participant, page.node, key, page.acted, page.undone)


def _facts(facts: tuple[Fact, ...]) -> str:
    if not facts:
        return ""
    return " -> " + ", ".join(f"{fact.kind} {fact.head.node}".rstrip() for fact in facts)
