"""Aggregates whose events are facts: the events of each kind of fact follow from a list of the kinds."""

from collections.abc import Iterable
from types import new_class
from typing import Any

from pydantic import BaseModel

from amends.aggregates.events.aggregate import Aggregate

__all__ = ["FactStream"]


class FactStream(Aggregate):
    """A stream of facts, folded into one attribute of the aggregate.

    Each kind of fact is an event of its own, `<category>.<kind>` in the journal, whose only field is the fact. The
    attribute's value has a method `apply`, which returns the value after one more fact.

    A subclass names its kinds of facts and its attribute: `class Stock(FactStream, facts=STOCK_FACTS, folds="level")`.
    """

    def __init_subclass__(cls, *, facts: Iterable[type[BaseModel]], folds: str) -> None:
        super().__init_subclass__()
        for kind in facts:
            setattr(cls, kind.__name__, _event_of(cls, kind, folds))

    def record(self, fact: BaseModel) -> None:
        """Record a fact of one of the stream's kinds."""
        self.trigger_event(getattr(type(self), type(fact).__name__), fact=fact)


def _event_of(stream: type[Aggregate], kind: type[BaseModel], folds: str) -> Any:  # noqa: ANN401 - a generated class
    def apply(event: Any, aggregate: Aggregate) -> None:  # noqa: ANN401 - as above
        setattr(aggregate, folds, getattr(aggregate, folds).apply(event.fact))

    members = {
        "__annotations__": {"fact": kind},
        "__module__": stream.__module__,
        "__qualname__": f"{stream.__qualname__}.{kind.__name__}",
        "apply": apply,
    }
    return new_class(kind.__name__, (stream.Event,), exec_body=lambda body: body.update(members))
