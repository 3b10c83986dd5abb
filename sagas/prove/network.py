"""The network and the workers: calls arrive, answers come back, and each of them may fail on the way. Pure."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from amends.aggregates.run.state import Direction
from amends.sagas.definition.participants import Contract
from amends.sagas.engine.outcome import Failed, NotFound, Outcome, Refused, Succeeded
from amends.sagas.prove.books import Books, Page, RecordedAnswer, receive, receive_probe, receive_undo
from amends.sagas.prove.moves import Move, MoveKind
from amends.sagas.prove.units import Played, SettledUnit, Units
from amends.sagas.prove.world import Listener, OpenCall, World

__all__ = ["Network"]

_LOST = Failed("ConnectionError", "the connection was lost")
_EXPIRED = Failed("TimeoutError", "no answer within the timeout")
_REFUSED = Refused("refused by the participant")
_K = MoveKind


class _Step(NamedTuple):
    """What happens to a call in a move, apart from the other calls of the world.

    Attributes:
        move: The move.
        books: The books after it.
        tail: The calls that are under way in place of the call.
        unit: The unit that records an outcome; `None` if the move writes nothing to the journal.
    """

    move: Move
    books: Books
    tail: tuple[OpenCall, ...] = ()
    unit: SettledUnit | None = None


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
        for place, call in enumerate(world.calls):
            if call.run == run and not (driving and (call.listener is Listener.PROMPT or call.answer is None)):
                question = ("moves", world.now_ms, world.faults > 0)
                about = (call, world.runs[run], world.books)
                for step in self._units.ask(question, about, partial(self._steps, world, call)):
                    yield self._play(world, place, step)

    def _play(self, world: World, place: int, step: _Step) -> Played:
        # Two copies of a call may be one object, and only one of them moves.
        calls = self._pruned(step.books, (*world.calls[:place], *world.calls[place + 1 :], *step.tail))
        if step.unit is None:
            return self._units.without_unit(world, step.move, step.books, calls)
        return self._units.settled(world, step.move, step.unit, step.books, calls)

    def _steps(self, world: World, call: OpenCall) -> tuple[_Step, ...]:
        if call.listener is Listener.PROMPT:
            return tuple(self._prompt(world, call))
        if call.answer is not None:
            return tuple(self._answered(world, call, call.answer))
        return tuple(self._coming(world, call))

    # ---- calls whose worker waits

    def _prompt(self, world: World, call: OpenCall) -> Iterator[_Step]:
        books, answer = self.arrive(world, call)
        outcome, words = answer.outcome, _words(answer)
        yield self._settle(world, call, _move(_K.SUCCEED, call, words), outcome, books)
        if not world.faults:
            return
        late = call._replace(listener=Listener.LATE)
        yield self._settle(world, call, _move(_K.FAIL, call, _LOST.error), _LOST)
        yield self._settle(world, call, _move(_K.TIME_OUT, call), _EXPIRED, tail=(late,))
        yield _Step(_move(_K.PAUSE, call), world.books, (late,))
        yield _Step(_move(_K.CRASH_CLAIMED, call), world.books)
        if call.call.direction is Direction.PROBE:
            yield from self._missed(world, call)
            return
        yield self._settle(world, call, _move(_K.LOSE_REPLY, call, words), _LOST, books)
        yield from self._refused(world, call)
        copy = call._replace(listener=Listener.NONE)
        yield self._settle(world, call, _move(_K.DELIVER_TWICE, call, words), outcome, books, tail=(copy,))
        yield _Step(_move(_K.CRASH_SENT, call), world.books, (copy,))
        yield _Step(_move(_K.CRASH_ANSWERED, call, words), books)
        again = (late._replace(answer=answer),)
        yield self._settle(world, call, _move(_K.COMMIT_LOST, call, words), outcome, books, tail=again)

    def _refused(self, world: World, call: OpenCall) -> Iterator[_Step]:
        books, answer = self.arrive(world, call, lambda: _REFUSED)
        forgetful = self._units.terms[call.call.step].contract is Contract.FORGETFUL
        if answer.outcome is _REFUSED and (forgetful or books is not world.books):
            yield self._settle(world, call, _move(_K.REFUSE, call), _REFUSED, books)

    def _missed(self, world: World, call: OpenCall) -> Iterator[_Step]:
        terms = self._units.terms[call.call.step]
        if terms.probe_may_miss and self._page(world, call).standing > 0:
            yield self._settle(world, call, _move(_K.MISS, call), NotFound())

    # ---- calls whose worker does not wait

    def _answered(self, world: World, call: OpenCall, answer: RecordedAnswer) -> Iterator[_Step]:
        yield self._settle(world, call, _move(_K.RECORD_LATE, call, _words(answer)), answer.outcome)
        if world.faults:
            yield _Step(_move(_K.LISTENER_DIES, call), world.books)

    def _coming(self, world: World, call: OpenCall) -> Iterator[_Step]:
        books, answer = self.arrive(world, call)
        listens = call.listener is Listener.LATE and not isinstance(answer.outcome, Failed)
        yield _Step(_move(_K.ARRIVE, call, _words(answer)), books, (call._replace(answer=answer),) if listens else ())
        if call.listener is Listener.LATE and world.faults:
            probe = call.call.direction is Direction.PROBE
            tail = () if probe else (call._replace(listener=Listener.NONE),)
            yield _Step(_move(_K.LISTENER_DIES, call), world.books, tail)

    # ---- shared

    def arrive(
        self, world: World, call: OpenCall, act: Callable[[], Outcome] | None = None
    ) -> tuple[Books, RecordedAnswer]:
        """Return the books and the answer after a call has arrived.

        Args:
            world: The world.
            call: The call.
            act: Refuses it; `None` to carry it out by the user's function.
        """
        task, contract = call.call, self._units.terms[call.call.step].contract
        page = self._page(world, call)
        acting = act or (lambda: self._units.carry_out(task))
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
        self,
        world: World,
        call: OpenCall,
        move: Move,
        outcome: Outcome,
        books: Books | None = None,
        *,
        tail: tuple[OpenCall, ...] = (),
    ) -> _Step:
        return _Step(
            move, world.books if books is None else books, tail, self._units.settle(world, move, call, outcome)
        )

    def _pruned(self, books: Books, calls: tuple[OpenCall, ...]) -> tuple[OpenCall, ...]:
        """Drop copies that no one listens to and that cannot act any more: they have no consequence."""
        if all(each.listener is not Listener.NONE for each in calls):
            return calls
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
