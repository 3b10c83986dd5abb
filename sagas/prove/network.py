"""The network and the workers: calls arrive, answers come back, and each of them may fail on the way. Pure."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from amends.aggregates.run.state import Direction
from amends.sagas.definition.participants import Contract
from amends.sagas.engine.outcome import Failed, NotFound, Outcome, Refused, Succeeded
from amends.sagas.prove.books import Books, Page, RecordedAnswer, receive, receive_probe, receive_undo
from amends.sagas.prove.moves import Move, MoveKind
from amends.sagas.prove.units import Played, Units
from amends.sagas.prove.world import Listener, OpenCall, World

__all__ = ["Network"]

_LOST = Failed("ConnectionError", "the connection was lost")
_EXPIRED = Failed("TimeoutError", "no answer within the timeout")
_REFUSED = Refused("refused by the participant")
_K = MoveKind


class _Settled(NamedTuple):
    """A call with the outcome that its worker records."""

    call: OpenCall
    outcome: Outcome


class Network:
    """Plays the calls that are under way.

    Args:
        units: Runs the units of the journal.
    """

    def __init__(self, units: Units) -> None:
        self._units = units

    def moves(self, world: World, run: int, *, driving: bool) -> Iterator[Played]:
        """Return the moves of a run's calls.

        Args:
            world: The world.
            run: Index of the run.
            driving: Whether the driver has something to do; it is prompt, so only late answers come before that.
        """
        for call in world.calls:
            if call.run != run:
                continue
            if call.listener is Listener.PROMPT:
                if not driving:
                    yield from self._prompt(world, call)
            elif call.answer is not None:
                yield from self._answered(world, call)
            elif not driving:
                yield from self._coming(world, call)

    # ---- calls whose worker waits

    def _prompt(self, world: World, call: OpenCall) -> Iterator[Played]:
        books, answer = self.arrive(world, call)
        outcome, words = answer.outcome, _words(answer)
        others = _without(world, call)
        yield self._settle(world, _move(_K.SUCCEED, call, words), _Settled(call, outcome), others, books)
        if not world.faults:
            return
        yield self._settle(world, _move(_K.FAIL, call, _LOST.error), _Settled(call, _LOST), others)
        yield self._settle(
            world, _move(_K.TIME_OUT, call), _Settled(call, _EXPIRED), _with(others, call, Listener.LATE)
        )
        yield self._leave(world, _move(_K.PAUSE, call), _with(others, call, Listener.LATE))
        yield self._leave(world, _move(_K.CRASH_CLAIMED, call), others)
        if call.call.direction is Direction.PROBE:
            yield from self._missed(world, call, others)
            return
        yield self._settle(world, _move(_K.LOSE_REPLY, call, words), _Settled(call, _LOST), others, books)
        yield from self._refused(world, call, others)
        twice = _with(others, call, Listener.NONE)
        yield self._settle(world, _move(_K.DELIVER_TWICE, call, words), _Settled(call, outcome), twice, books)
        yield self._leave(world, _move(_K.CRASH_SENT, call), twice)
        yield self._leave(world, _move(_K.CRASH_ANSWERED, call, words), others, books)
        again = _with(others, call, Listener.LATE, answer)
        yield self._settle(world, _move(_K.COMMIT_LOST, call, words), _Settled(call, outcome), again, books)

    def _refused(self, world: World, call: OpenCall, others: tuple[OpenCall, ...]) -> Iterator[Played]:
        books, answer = self.arrive(world, call, lambda: _REFUSED)
        forgetful = self._units.terms[call.call.step].contract is Contract.FORGETFUL
        if answer.outcome is _REFUSED and (forgetful or books is not world.books):
            yield self._settle(world, _move(_K.REFUSE, call), _Settled(call, _REFUSED), others, books)

    def _missed(self, world: World, call: OpenCall, others: tuple[OpenCall, ...]) -> Iterator[Played]:
        terms = self._units.terms[call.call.step]
        if terms.probe_may_miss and self._page(world, call).standing > 0:
            yield self._settle(world, _move(_K.MISS, call), _Settled(call, NotFound()), others)

    # ---- calls whose worker does not wait

    def _answered(self, world: World, call: OpenCall) -> Iterator[Played]:
        answer = call.answer
        if answer is not None:
            others = _without(world, call)
            yield self._settle(
                world, _move(_K.RECORD_LATE, call, _words(answer)), _Settled(call, answer.outcome), others
            )
            if world.faults:
                yield self._leave(world, _move(_K.LISTENER_DIES, call), others)

    def _coming(self, world: World, call: OpenCall) -> Iterator[Played]:
        books, answer = self.arrive(world, call)
        others = _without(world, call)
        listens = call.listener is Listener.LATE and not isinstance(answer.outcome, Failed)
        after = _with(others, call, Listener.LATE, answer) if listens else others
        yield self._leave(world, _move(_K.ARRIVE, call, _words(answer)), after, books)
        if call.listener is Listener.LATE and world.faults:
            probe = call.call.direction is Direction.PROBE
            gone = others if probe else _with(others, call, Listener.NONE)
            yield self._leave(world, _move(_K.LISTENER_DIES, call), gone)

    # ---- shared

    def arrive(
        self, world: World, call: OpenCall, act: Callable[[], Outcome] | None = None
    ) -> tuple[Books, RecordedAnswer]:
        """Return the books and the answer after a call has arrived.

        Args:
            world: The world.
            call: The call.
            act: Carries it out; `None` for the user's function.
        """
        task, contract = call.call, self._units.terms[call.call.step].contract
        page = self._page(world, call)
        acting = act or (lambda: self._units.functions.carry_out(task))
        if task.direction is Direction.PROBE:
            page, answer = receive_probe(page, contract)
        elif task.direction is Direction.UNDO:
            page, answer = receive_undo(page, contract, task.key, acting)
        else:
            page, answer = receive(page, contract, acting)
        return world.books.having(task.call.do_key, page), answer

    def _page(self, world: World, call: OpenCall) -> Page:
        return world.books.page(call.call.call.do_key, call.run, call.call.node)

    def _settle(
        self, world: World, move: Move, settled: _Settled, calls: tuple[OpenCall, ...], books: Books | None = None
    ) -> Played:
        arrived = world if books is None else world.with_books(books)
        pruned = self._pruned(arrived.books, calls)
        played = self._units.settle(arrived, move, settled.call, settled.outcome, pruned)
        return played._replace(before=world)

    def _leave(self, world: World, move: Move, calls: tuple[OpenCall, ...], books: Books | None = None) -> Played:
        after = world.books if books is None else books
        return self._units.without_unit(world, move, after, self._pruned(after, calls))

    def _pruned(self, books: Books, calls: tuple[OpenCall, ...]) -> tuple[OpenCall, ...]:
        """Drop copies that no one listens to and that cannot act any more: they have no consequence."""
        return tuple(each for each in calls if each.listener is not Listener.NONE or self._can_act(books, each))

    def _can_act(self, books: Books, call: OpenCall) -> bool:
        if self._units.terms[call.call.step].contract is Contract.FORGETFUL:
            return True
        page = books.page(call.call.call.do_key, call.run, call.call.node)
        if call.call.direction is Direction.UNDO:
            return call.call.key not in dict(page.undos)
        return page.answer is None and not page.closed


def _move(kind: MoveKind, call: OpenCall, detail: str = "") -> Move:
    return Move(kind, call.run, call.words, detail)


def _without(world: World, call: OpenCall) -> tuple[OpenCall, ...]:
    return tuple(each for each in world.calls if each is not call)


def _with(
    others: tuple[OpenCall, ...], call: OpenCall, listener: Listener, answer: RecordedAnswer | None = None
) -> tuple[OpenCall, ...]:
    return (*others, call._replace(listener=listener, answer=answer))


def _words(answer: RecordedAnswer) -> str:
    match answer.outcome:
        case Succeeded():
            return "it took effect"
        case Refused(reason):
            return f"refused: {reason}"
        case NotFound():
            return "nothing was found"
        case Failed(error_type, error):
            return f"{error_type}: {error}"
        case _:
            return "it waits for other code"
