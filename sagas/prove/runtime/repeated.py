"""Check that the user's functions are deterministic: play a sample of stories twice, the second time at another time.

A search plays every story from its start again and compares worlds, so a function must return equal results for equal
arguments. The second time, the clock of the user's modules is a day and an hour ahead, and `random` has another seed.
"""

import datetime as dt
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from amends.aggregates.text import shorten
from amends.sagas.prove.functions import ProvedRegistry
from amends.sagas.prove.moves import MoveKind
from amends.sagas.prove.player import Player
from amends.sagas.prove.problem import ProveError
from amends.sagas.prove.search import Path
from amends.sagas.prove.units import Played
from amends.sagas.prove.values import content_of
from amends.sagas.prove.world import World

__all__ = ["check_repeatable"]

_SHIFT_S = 90_000
_MOST_MOVES = 300


def check_repeatable(registry: ProvedRegistry, player: Player, root: World) -> None:
    """Check that a sample of stories is the same at another time.

    Args:
        registry: The user's functions.
        player: Plays the moves.
        root: The world in which the stories begin.

    Raises:
        ProveError: A function returned or wrote something else the second time.
    """
    for path in _sample(player, root):
        first = _play(player, root, path)
        with _shifted(registry):
            second = _play(player, root, path)
        for before, after in zip(first, second, strict=False):
            _compare(before, after)


def _compare(before: Played, after: Played) -> None:
    for one, other in zip(before.appended, after.appended, strict=False):
        if content_of(one.fact) != content_of(other.fact):
            raise _differs(one.fact.head.node or other.fact.head.node, _outcome(one.fact), _outcome(other.fact))
    if before.world.shelf.key != after.world.shelf.key:
        ran = before.ran[-1].node if before.ran else "unknown"
        raise _differs(ran, "one change of the store", "another one")
    if before.world.books.key != after.world.books.key:
        call = before.move.call.partition("'")[2].partition("'")[0]
        raise _differs(call, "one answer", "another one")


def _outcome(fact: object) -> str:
    for name in ("result", "reason", "error"):
        if getattr(fact, name, None) is not None:
            return shorten(getattr(fact, name))
    return type(fact).__name__


def _differs(node: str, one: str, other: str) -> ProveError:
    return ProveError(
        f"step {node!r}: its function is not deterministic, equal arguments lead to {one} and then to {other}; "
        f"take times and random values from the input or from call.key, or replace it: results={{{node}: a result}}"
    )


def _sample(player: Player, root: World) -> Iterator[Path]:
    """Return the story without faults, and the one that somebody cancels as late as possible."""
    world = root
    path: Path = ()
    cancelled: Path | None = None
    for _ in range(_MOST_MOVES):
        moves = player.expand(world)
        if not moves:
            break
        for choice, played in enumerate(moves):
            if played.move.kind is MoveKind.CANCEL:
                cancelled = (*path, choice)
        path, world = (*path, 0), moves[0].world
    yield path
    if cancelled is not None:
        yield cancelled + (0,) * _MOST_MOVES


def _play(player: Player, root: World, path: Path) -> list[Played]:
    world, played = root, []
    for choice in path:
        moves = player.expand(world)
        if choice >= len(moves):
            break
        played.append(moves[choice])
        world = moves[choice].world
    return played


# ---- another time


class _LaterDate(type):
    """The type of classes that read the clock ahead, and stand for the class that they replace."""

    real: type

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, cls.real)

    def __getattr__(cls, name: str) -> Any:  # noqa: ANN401 - any attribute of the class that it stands for
        return getattr(cls.real, name)

    def __call__(cls, *arguments: Any, **others: Any) -> Any:  # noqa: ANN401 - as the class that it stands for
        return cls.real(*arguments, **others)


class _Datetime(metaclass=_LaterDate):
    real = dt.datetime

    @staticmethod
    def now(tz: dt.tzinfo | None = None) -> dt.datetime:
        """Return the present time, shifted."""
        return dt.datetime.now(tz) + dt.timedelta(seconds=_SHIFT_S)

    @staticmethod
    def utcnow() -> dt.datetime:
        """Return the present time without a zone, shifted."""
        return _Datetime.now(dt.UTC).replace(tzinfo=None)

    @staticmethod
    def today() -> dt.datetime:
        """Return the present local time, shifted."""
        return _Datetime.now()


class _Date(metaclass=_LaterDate):
    real = dt.date

    @staticmethod
    def today() -> dt.date:
        """Return the present day, shifted."""
        return _Datetime.now().date()


def _time() -> float:
    return time.time() + _SHIFT_S


def _time_ns() -> int:
    return time.time_ns() + _SHIFT_S * 1_000_000_000


def _module(real: ModuleType, **changes: object) -> ModuleType:
    copy = ModuleType(real.__name__)
    vars(copy).update(vars(real) | changes)
    return copy


_REPLACED: dict[int, object] = {
    id(time): _module(time, time=_time, time_ns=_time_ns),
    id(time.time): _time,
    id(time.time_ns): _time_ns,
    id(dt): _module(dt, datetime=_Datetime, date=_Date),
    id(dt.datetime): _Datetime,
    id(dt.date): _Date,
}


@contextmanager
def _shifted(registry: ProvedRegistry) -> Iterator[None]:
    """Shift the clock of the user's modules, and seed `random` differently."""
    state = random.getstate()
    with ExitStack() as stack:
        stack.callback(random.setstate, state)
        random.seed(repr(state)[:100] + "again")
        for names in _globals(registry):
            for name, value in list(names.items()):
                if id(value) in _REPLACED:
                    stack.callback(names.__setitem__, name, value)
                    names[name] = _REPLACED[id(value)]
        yield


def _globals(registry: ProvedRegistry) -> Iterator[dict[str, Any]]:
    """Return the global names of the modules of the user's functions, and of the packages that these are in."""
    seen: set[int] = set()
    packages: set[str] = set()
    for step in registry.steps.values():
        for operation in filter(None, (step.run, step.undo)):
            function: Callable[..., Any] = operation.function
            names = getattr(function, "__globals__", {})
            packages.add(str(function.__module__).partition(".")[0])
            if id(names) not in seen:
                seen.add(id(names))
                yield names
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in packages - {"amends"} and id(vars(module)) not in seen:
            yield vars(module)
