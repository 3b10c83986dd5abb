"""The player: everything that can happen next in a world, played through the protocol that the drivers use. Pure.

`Player.expand` is a deterministic function of a world, so the index of a move in its result names the move, and a story
is a list of indices. `units` runs the units of the journal, `network` plays calls and answers, and this module lists
the moves of drivers and operators.
"""

from collections.abc import Iterator

from amends.aggregates.errors import BusyError, InputError, RefusedError
from amends.aggregates.run.facts import CompensationResolved, StepResolved, StepRuledOut
from amends.aggregates.run.plan import StepKind
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import CLAIMED, Direction, RunStatus
from amends.sagas.engine.calls import key_of
from amends.sagas.engine.decide import Conclusion, Decision, RunCompensation, RunStep, WaitUntil, Work, decide
from amends.sagas.engine.interventions import Intervention, InterventionKind, open_for_decision
from amends.sagas.engine.outcome import Succeeded
from amends.sagas.prove.functions import TransactionFault
from amends.sagas.prove.moves import Move, MoveKind
from amends.sagas.prove.network import Network
from amends.sagas.prove.units import Played, Units
from amends.sagas.prove.world import Listener, OpenCall, World, part_of

__all__ = ["Player"]

_DECISIONS = tuple(kind for kind in InterventionKind if kind is not InterventionKind.CANCEL)


class Player:
    """Plays moves.

    Args:
        units: Runs the units of the journal.

    Attributes:
        terms: The terms of every effect, by name of its step.
        units: Runs the units of the journal.
    """

    def __init__(self, units: Units) -> None:
        self.terms = units.terms
        self.units = units
        self._network = Network(units)

    def expand(self, world: World) -> list[Played]:
        """Return every move that is possible in a world, with the world after it.

        Raises:
            ProveError: A function of the user does not fit the search.
        """
        moves: list[Played] = []
        decided = [self._decided(record, world.now_ms) for record in world.runs]
        for run, record in enumerate(world.runs):
            driving = list(self._drive(world, run, decided[run]))
            moves += driving
            moves += self._operate(world, run, record)
            if not driving:
                moves += self._redeliver(world, run, record)
            moves += self._network.moves(world, run, driving=bool(driving))
        if not any(each.move.kind is MoveKind.DRIVE for each in moves):
            moves += self._wait(world, decided)
        moves += self._deploy(world, decided)
        return moves

    def _decided(self, record: RunRecord, now_ms: int) -> tuple[Decision, ...]:
        return self.units.ask(("decide", now_ms), (record,), lambda: decide(record.state, now_ms))

    # ---- the driver

    def _drive(self, world: World, run: int, decisions: tuple[Decision, ...]) -> Iterator[Played]:
        if not self._due(world, run, decisions):
            return
        played = self.units.drive(world, Move(MoveKind.DRIVE, run))
        if played.changed:
            yield played
        if not world.faults:
            return
        for index, ran in enumerate(played.ran):
            for fault in TransactionFault:
                if fault is TransactionFault.REFUSED and ran.undo and not self.units.registry.refuses_undo:
                    continue
                name = f"the undo of {ran.node!r}" if ran.undo else f"the transaction {ran.node!r}"
                move = Move(MoveKind.TRANSACTION, run, ran.node, f"{name} {fault.value}")
                yield self.units.drive(world, move, (index, fault))

    def _due(self, world: World, run: int, decisions: tuple[Decision, ...]) -> bool:
        nodes = world.runs[run].state.plan.nodes
        probed = world.probed(run)
        return any(
            isinstance(each, Conclusion)
            or (isinstance(each, Work) and (nodes[each.node].kind is StepKind.TRANSACTION or each.node not in probed))
            for each in decisions
        )

    def _wait(self, world: World, decided: list[tuple[Decision, ...]]) -> Iterator[Played]:
        """Let time pass until the next decision; the claim of a call that is answered in time does not expire."""
        waits = [
            (each.due_ms, run, each.node)
            for run, decisions in enumerate(decided)
            for each in decisions
            if isinstance(each, WaitUntil)
        ]
        if not waits:
            return
        due_ms, run, _ = min(waits)
        prompt = {(each.run, each.call.node) for each in world.calls if each.listener is Listener.PROMPT}
        for due, of, node in waits:
            if due == due_ms and (of, node) in prompt:
                return
        seconds = (due_ms - world.now_ms) / 1000
        yield self.units.wait(world, Move(MoveKind.WAIT, run, "", f"{seconds:g} s pass"), due_ms)

    def _redeliver(self, world: World, run: int, record: RunRecord) -> Iterator[Played]:
        for name, at in record.state.nodes.items():
            direction = CLAIMED.get(at.status)
            if direction is None:
                continue
            prompt = [each for each in world.calls_of(run, Listener.PROMPT) if each.call.node == name]
            kind = MoveKind.TAKE_OVER_LIVE if prompt else MoveKind.REDELIVER
            if kind.cost > world.faults:
                continue
            if part_of(record.state.plan.nodes[name]) == world.lacks:
                continue
            work: Work = (RunStep if direction is Direction.DO else RunCompensation)(name, at.attempt)
            move = Move(kind, run, OpenCall.words_of(name, direction, at.attempt))
            yield self.units.take_over(world, move, work, prompt[0] if prompt else None)

    # ---- deploys

    def _deploy(self, world: World, decided: list[tuple[Decision, ...]]) -> Iterator[Played]:
        """Deploy a release that lacks the code of something that is due, or the right one again."""
        if world.lacks:
            if any(decided):
                move = Move(MoveKind.RIGHT_CODE, 0, "", repr(world.lacks))
                yield self.units.deploy(world, move, "")
            return
        if not world.faults:
            return
        nodes = [
            (run, world.runs[run].state.plan.nodes[each.node])
            for run, decisions in enumerate(decided)
            for each in decisions
            if isinstance(each, Work)
        ]
        parts = {part_of(node): run for run, node in reversed(nodes)}
        for part, run in sorted(parts.items()):
            yield self.units.deploy(world, Move(MoveKind.OTHER_CODE, run, "", repr(part)), part)

    # ---- operators

    def _operate(self, world: World, run: int, record: RunRecord) -> Iterator[Played]:
        if world.faults and record.state.status is RunStatus.RUNNING:
            yield from self._decide(world, Move(MoveKind.CANCEL, run), _intervention(InterventionKind.CANCEL))
        if not world.decisions:
            return
        if not record.state.closed and record.driver == record.started.driver:
            yield self.units.replace_driver(world, Move(MoveKind.REPLACE_DRIVER, run))
        for node in open_for_decision(record.state):
            for kind in _DECISIONS:
                output = self._output(world, run, node)
                move = Move(MoveKind.DECIDE, run, node, f"{node!r}: {kind}")
                yield from self._decide(world, move, _intervention(kind, node, output))

    def _decide(self, world: World, move: Move, intervention: Intervention) -> Iterator[Played]:
        """Play a decision, if the protocol accepts it and an operator who checked the books could make it."""
        try:
            played = self.units.intervene(world, move, intervention)
        except (RefusedError, BusyError, InputError):
            return
        if not played.changed:
            return
        fact = played.appended[0].fact
        match fact:
            case StepResolved() if not self._stands(world, move.run, fact.node):
                return
            case StepRuledOut() if self._may_act(world, move.run, fact.node):
                return
            case CompensationResolved() if self._coming(world, move.run, fact.node):
                return
            case CompensationResolved():
                played = played._replace(world=_undone_by_hand(played.world, move.run, fact.node))
        yield played

    def _stands(self, world: World, run: int, node: str) -> bool:
        record = world.runs[run]
        key = key_of(record.run_id, node, Direction.DO, record.state.node(node).generation)
        return world.books.page(key, run, node).standing > 0

    def _may_act(self, world: World, run: int, node: str) -> bool:
        return self._coming(world, run, node) or any(page.acted for page in world.books.of(run, node))

    def _coming(self, world: World, run: int, node: str) -> bool:
        return any(
            each.run == run and each.call.node == node and each.answer is None and each.call.direction is Direction.DO
            for each in world.calls
        )

    def _output(self, world: World, run: int, node: str) -> object:
        answers = (page.answer for page in world.books.of(run, node) if page.answer is not None)
        return next((each.outcome.result for each in answers if isinstance(each.outcome, Succeeded)), None)


def _intervention(kind: InterventionKind, node: str | None = None, output: object = None) -> Intervention:
    return Intervention(
        kind=kind,
        actor="operator",
        reason="decided by the search",
        node=node,
        evidence="checked in the books",
        output=output,  # type: ignore[arg-type]  # JSON, as the participant answered it
    )


def _undone_by_hand(world: World, run: int, node: str) -> World:
    books = world.books
    for key, page in world.books.pages.items():
        if page.run == run and page.node == node:
            books = books.having(key, page._replace(undone=page.acted, by_hand=True))
    return world.with_books(books)
