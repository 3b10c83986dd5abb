"""The users' aggregates: consistency boundaries whose state is folded from their own events.

`Aggregate` is eventsourcing's aggregate with text ids; it also names the stream of an aggregate. `event_codec` stores
the events, and `snapshot` has the snapshots.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from eventsourcing.domain import (
    BaseAggregate,
    CanInitAggregate,
    CanMutateAggregate,
    CommandMethodDecorator,
    DecoratedFuncCaller,
    MetaDomainEvent,
    decorated_funcs,
)

from amends.aggregates.errors import DefinitionError, InputError
from amends.aggregates.text import shorten

__all__ = ["Aggregate", "checked_aggregate_id"]

_MAX_ID_CHARS = 200
_RESERVED_CATEGORIES = frozenset({"run", "amends"})


def checked_aggregate_id(id: object) -> str:  # noqa: A002 - the word that aggregates use
    """Return an aggregate's id if it is valid.

    An id is 1 to 200 printable characters without white space at its ends; `/` is allowed.

    Raises:
        InputError: The id is not such a text.
    """
    if not isinstance(id, str):
        raise InputError(f"aggregate id {shorten(id)} is {type(id).__name__}; ids are text")
    if not 0 < len(id) <= _MAX_ID_CHARS:
        raise InputError(f"aggregate id {shorten(id)} has {len(id)} characters; use 1 to {_MAX_ID_CHARS}")
    if not id.isprintable() or id != id.strip():
        raise InputError(
            f"aggregate id {shorten(id)} has control characters, or whitespace at its ends; use printable text"
        )
    return id


class Aggregate(BaseAggregate[str]):
    """A consistency boundary: its commands check rules and trigger events, and only events change its state.

    The id is the argument `id` of `__init__`, or the result of a static method `create_id` that gets the arguments of
    `__init__`.

    Parameters of `@event` methods should be annotated: their types decide how an event is read back. Do not read the
    clock, draw random numbers or do I/O inside `@event` methods, since they run again whenever the aggregate is read.

    A parameter with a default may be added later without an upcaster. `timestamp` of an event is wall time, for people;
    no decision should depend on it.

    Attributes:
        CATEGORY: Name of the aggregate's kind in stream names and topics; the class's name unless the class itself sets
            it. Set it to the old name when you rename a class. It is not inherited.

    Example:
        >>> from eventsourcing.domain import event
        >>> class StockItem(Aggregate):
        ...     @event("Registered")
        ...     def __init__(self, id: str, on_hand: int) -> None:
        ...         self.on_hand = on_hand
        ...     @event("Reserved")
        ...     def reserve(self, quantity: int) -> None:
        ...         self.on_hand -= quantity
        >>> item = StockItem(id="sku-1", on_hand=5)
        >>> item.reserve(2)
        >>> item.id, item.on_hand, item.version
        ('sku-1', 3, 2)
        >>> StockItem.stream_of("sku-1")
        'StockItem/sku-1'

        >>> class Shelf(Aggregate):
        ...     @staticmethod
        ...     def create_id(aisle: int, number: int) -> str:
        ...         return f"{aisle}/{number}"
        ...     @event("Built")
        ...     def __init__(self, aisle: int, number: int) -> None:
        ...         self.place = (aisle, number)
        >>> Shelf(aisle=3, number=14).id
        '3/14'
    """

    # No annotation here, because annotations turn eventsourcing's aggregates into dataclasses.
    CATEGORY = ""

    @dataclass(frozen=True)
    class Event(CanMutateAggregate[str], metaclass=MetaDomainEvent):
        """A decision of an aggregate.

        Attributes:
            originator_id: The aggregate's id, without its category.
            originator_version: Position in the aggregate's stream, from 1.
            timestamp: Wall time of the event, for people.
        """

        originator_id: str
        originator_version: int
        timestamp: datetime

    @dataclass(frozen=True)
    class Created(Event, CanInitAggregate[str]):
        """The first event of an aggregate.

        Attributes:
            originator_topic: Topic by which eventsourcing finds the aggregate's class; never stored.
        """

        originator_topic: str

    def __init_subclass__(cls, *, created_event_name: str = "") -> None:
        super().__init_subclass__(created_event_name=created_event_name)
        category = cls.category()
        if not category.isidentifier() or category in _RESERVED_CATEGORIES:
            raise DefinitionError(
                f"aggregate {cls.__qualname__}: category {category!r} is reserved or not a plain name; "
                "set CATEGORY to letters, digits and _"
            )
        cls._adopt_events()
        for name, value in vars(cls).items():
            if isinstance(value, property) and isinstance(value.fset, CommandMethodDecorator):
                # eventsourcing triggers no event in `create_id` unless ids are UUIDs.
                raise DefinitionError(
                    f"aggregate {cls.__qualname__}: the setter of {name!r} has @event below @{name}.setter; "
                    f"put @event above @{name}.setter"
                )

    @classmethod
    def _adopt_events(cls) -> None:
        # eventsourcing gives a subclass its own copy of each inherited event class, but not the method that applies it.
        for value in tuple(vars(cls).values()):
            if isinstance(value, type) and issubclass(value, DecoratedFuncCaller) and value not in decorated_funcs:
                decorated_funcs[value] = next(
                    decorated_funcs[base] for base in value.__mro__ if base in decorated_funcs
                )

    def trigger_event(self, event_class: type[CanMutateAggregate[str]], **kwargs: Any) -> None:  # noqa: ANN401 - fields
        """Create an event of this aggregate and apply it.

        A command inherited from a base class triggers the event of the aggregate's own class, so that all its events
        are in one stream.

        Args:
            event_class: An event class of the aggregate, or of a base class that it inherits from.
            **kwargs: The event's fields.

        Raises:
            DefinitionError: The event belongs to another aggregate.
        """
        own = vars(type(self)).get(event_class.__name__)
        if own is not event_class and not (isinstance(own, type) and issubclass(own, event_class)):
            raise DefinitionError(
                f"aggregate {type(self).__qualname__} {self.id!r}: {event_class.__qualname__} belongs to another "
                "aggregate; "
                f"define the event within {type(self).__qualname__}"
            )
        super().trigger_event(own, **kwargs)

    @classmethod
    def category(cls) -> str:
        """Return the name of this kind of aggregate in streams and topics."""
        return str(vars(cls).get("CATEGORY") or cls.__name__)

    @classmethod
    def stream_of(cls, id: str) -> str:  # noqa: A002 - the word that aggregates use
        """Return the stream of the aggregate with this id: `<category>/<id>`.

        Raises:
            InputError: The text cannot be an id.
        """
        return f"{cls.category()}/{checked_aggregate_id(id)}"

    @classmethod
    def _create(
        cls,
        event_class: type[CanInitAggregate[str]],
        *,
        id: str | None = None,  # noqa: A002 - the signature is eventsourcing's
        **kwargs: Any,  # noqa: ANN401 - as above
    ) -> Self:
        if id is not None:
            checked_aggregate_id(id)
        created = super()._create(event_class, id=id, **kwargs)
        checked_aggregate_id(created.id)
        return created
