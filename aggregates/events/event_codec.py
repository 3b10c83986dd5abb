"""Domain events and facts as stored events: topics from an allow-list, checked payloads, upcasters.

Topics are Amends' own stable names, never module paths: `amends.StepSucceeded` for a fact, `StockItem.Reserved` for an
event of an aggregate. The codec knows the topics of registered classes only, so reading a row never imports
anything. The payload is JSON by pydantic: all fields except the stream and the position, which have columns of
their own, and `class_version` when it is above 1. The codec keeps the order of keys within user data, so that a replay
sees the same values as the live code did.

Upcasters bring old events up to date as in eventsourcing: an event class with `class_version = 3` has static methods
`upcast_v1_v2(state)` and `upcast_v2_v3(state)`, which change the JSON of the payload in place. The module is pure.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, cast

from eventsourcing.domain import CanInitAggregate, CanMutateAggregate, DomainEventProtocol
from eventsourcing.persistence import JSONTranscoder, Mapper, Notification, StoredEvent
from eventsourcing.utils import TopicError, get_topic
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from amends.aggregates.damage import RESTORE
from amends.aggregates.errors import (
    ChangedEventError,
    DefinitionError,
    EventError,
    InputError,
    NewerFactError,
    UnknownTopicError,
)
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.events.event_types import event_classes, event_defaults, event_types, record_adapter
from amends.aggregates.run.facts import FACTS
from amends.aggregates.text import one_line, shorten
from amends.aggregates.values.checksum import ChangedEvent, ChangedNotification
from amends.aggregates.values.error_report import line_of, text_of
from amends.aggregates.values.json_codec import (
    DEFAULT_LIMITS,
    Limits,
    loss_message,
    plainly_equal,
    type_adapter,
    unwritable_remedy,
    validation_message,
)
from amends.aggregates.values.roundtrip import equality_suffices, first_difference
from amends.aggregates.values.strict_json import ascii_json, json_bytes, refuse_unreadable

__all__ = ["EventCodec", "changed_error"]

_FACT_PREFIX = "amends."
_VERSION_KEY = "class_version"
_TIMESTAMP = "timestamp"
_VERSION_MARK = b'"class_version"'
_IN_COLUMNS = frozenset({"originator_id", "originator_version"})


class _Stored:
    """The parts that facts and aggregate events share: a topic and a version."""

    def __init__(self, cls: type[Any], topic: str) -> None:
        version = getattr(cls, _VERSION_KEY, 1)
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise DefinitionError(f"{topic}: class_version is {shorten(version)}; use a whole number from 1")
        self.cls = cls
        self.topic = topic
        self.version = version
        self.version_suffix = f',"{_VERSION_KEY}":{version}}}'.encode() if version > 1 else b""
        for old in range(1, version):
            self.upcaster(old)  # raises if the class has none

    def upcaster(self, version: int) -> Callable[[dict[str, Any]], None]:
        """Return the upcaster from a version to the next one."""
        name = f"upcast_v{version}_v{version + 1}"
        found = getattr(self.cls, name, None)
        if not callable(found):
            raise DefinitionError(
                f"{self.topic}: class_version is {self.version} without {name}; add a static method {name}(state)"
            )
        return cast("Callable[[dict[str, Any]], None]", found)

    def marked(self, raw: bytes) -> bytes:
        """Return the payload with the version added if it is above 1."""
        if not self.version_suffix:
            return raw
        return raw[:-1] + (self.version_suffix if len(raw) > len(b"{}") else self.version_suffix[1:])

    def current(self, stored: StoredEvent) -> bytes:
        """Return the payload in the form of this class's version."""
        raw = stored.state
        if raw[:1] != b"{" or raw[-1:] != b"}":
            raise _damaged(stored, "its payload is not a JSON object")
        if self.version == 1 and _VERSION_MARK not in raw:
            return raw
        try:
            state = from_json(raw, allow_inf_nan=False)
        except ValueError as error:
            raise _damaged(stored, one_line(str(error))) from None
        found = state.pop(_VERSION_KEY, 1)
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise _damaged(stored, f"its class_version is {shorten(found)}")
        if found > self.version:
            raise NewerFactError(
                str(stored.originator_id),
                stored.originator_version,
                f"{self.topic} has version {found}, this program reads versions up to {self.version}",
                "upgrade this program",
            )
        for version in range(found, self.version):
            self._upcast(stored, state, version)
        return to_json(state)

    def _upcast(self, stored: StoredEvent, state: dict[str, Any], version: int) -> None:
        upcast = self.upcaster(version)
        try:
            result = cast("Callable[[dict[str, Any]], object]", upcast)(state)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise _damaged(stored, f"upcast_v{version}_v{version + 1} raised {line_of(error)}") from error
        if result is not None:
            raise DefinitionError(
                f"{self.topic}: upcast_v{version}_v{version + 1} returned a value of type {type(result).__name__}; "
                "change the state in place and return nothing"
            )


class _StoredFact(_Stored):
    """A fact: the core builds it from checked parts, so the codec writes it without a second validation."""

    def __init__(self, cls: type[BaseModel], topic: str) -> None:
        if not set(cls.model_fields) >= _IN_COLUMNS:
            raise DefinitionError(f"fact {cls.__qualname__} lacks originator_id or originator_version; add them")
        super().__init__(cls, topic)
        self._write: Callable[..., bytes] = cls.__pydantic_serializer__.to_json
        self._read: Callable[[bytes], Any] = cls.__pydantic_validator__.validate_json

    def write(self, fact: Any) -> StoredEvent:  # noqa: ANN401 - a fact
        try:
            raw = self._write(fact, exclude=_IN_COLUMNS, warnings=False)
        except ValueError as error:
            raise InputError(
                f"{self.topic} in stream {fact.originator_id!r}: {one_line(str(error))}; remove such characters first"
            ) from None
        return StoredEvent(fact.originator_id, fact.originator_version, self.topic, self.marked(raw))

    def read(self, stored: StoredEvent) -> Any:  # noqa: ANN401 - a fact
        raw = self.current(stored)
        # The last of two equal keys wins in pydantic's reader, so the columns overrule the payload in a single pass.
        comma = b"," if len(raw) > len(b"{}") else b""
        columns = (
            f'"originator_id":{ascii_json(stored.originator_id)},"originator_version":{stored.originator_version}}}'
        )
        try:
            return self._read(raw[:-1] + comma + columns.encode())
        except ValidationError as error:
            raise _damaged(stored, validation_message(error)) from None


class _StoredAggregateEvent(_Stored):
    """An event of an aggregate: it holds user data, so the codec reads it back and compares it before accepting it."""

    def __init__(self, aggregate: type[Aggregate], cls: type[CanMutateAggregate[str]], limits: Limits) -> None:
        category = aggregate.category()
        topic = f"{category}.{cls.__name__}"
        types = event_types(cls)
        if _VERSION_KEY in types:
            raise DefinitionError(
                f"event {topic}: the field name {_VERSION_KEY} is reserved; "
                f"rename the field, or remove its annotation if it is the version of the class"
            )
        super().__init__(cls, topic)
        self._prefix = f"{category}/"
        self._limits = limits
        self._defaults = event_defaults(aggregate, cls)
        adapter = record_adapter(cls.__name__, types, optional=self._defaults, what=f"event {topic}")
        self._to_plain: Callable[..., Any] = adapter.serializer.to_python
        self._to_json: Callable[..., bytes] = adapter.serializer.to_json
        self._from_json: Callable[..., dict[str, Any]] = adapter.validator.validate_json
        self._names = frozenset(types)
        # `==` suffices for the timestamp, because the library sets it, in UTC.
        given = [hint for name, hint in types.items() if name != _TIMESTAMP]
        self._equality_suffices = all(equality_suffices(type_adapter(hint, topic).core_schema) for hint in given)
        self._originator_topic = _topic_of(aggregate) if issubclass(cls, CanInitAggregate) else None

    def write(self, event: CanMutateAggregate[str]) -> StoredEvent:
        state = dict(vars(event))
        stream = self._prefix + state.pop("originator_id")
        position = state.pop("originator_version")
        state.pop("originator_topic", None)
        raw = self._checked(event, state)
        return StoredEvent(stream, position, self.topic, self.marked(raw))

    def _checked(self, event: CanMutateAggregate[str], state: dict[str, Any]) -> bytes:
        try:
            raw = self._to_json(state, by_alias=False, round_trip=True, warnings=False)
            back = self._from_json(raw, by_alias=True, by_name=True)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a user's serializer or validator may raise anything
            self._refuse(event, state, error)
        if not (self._equality_suffices and plainly_equal(state, back)):
            lost = first_difference(state, back)
            if lost is not None:
                raise InputError(f"{self._what(event)}: {loss_message(lost)}")
        refuse_unreadable(raw, what=self._what(event), limits=self._limits)
        return raw

    def _refuse(self, event: CanMutateAggregate[str], state: dict[str, Any], error: BaseException) -> NoReturn:
        what = self._what(event)
        try:
            plain = self._to_plain(state, mode="json", by_alias=False, round_trip=True, warnings=False)
        except BaseException:  # noqa: BLE001 - the first error explains the fault
            plain = None
        # The message names a value that JSON cannot hold, such as NaN, instead of its replacement.
        json_bytes(plain, what)
        found = validation_message(error) if isinstance(error, ValidationError) else text_of(error)
        raise InputError(
            f"{what}: cannot be stored and read back ({found}); "
            f"{unwritable_remedy(found, 'pass values of the declared types')}"
        ) from None

    def _what(self, event: CanMutateAggregate[str]) -> str:
        return f"event {self.topic} of {event.originator_id!r}"

    def read(self, stored: StoredEvent) -> Any:  # noqa: ANN401 - a user's event
        stream = str(stored.originator_id)
        if not stream.startswith(self._prefix):
            raise _damaged(stored, f"the event belongs in a stream {self._prefix}...")
        raw = self.current(stored)
        try:
            state = self._from_json(raw, by_alias=True, by_name=True)
        except ValidationError as error:
            raise _damaged(stored, validation_message(error)) from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise _damaged(stored, f"a validator raised {line_of(error)}") from error
        for name in self._names - state.keys():
            state[name] = self._defaults[name]()
        state["originator_id"] = stream[len(self._prefix) :]
        state["originator_version"] = stored.originator_version
        if self._originator_topic is not None:
            state["originator_topic"] = self._originator_topic
        event = object.__new__(self.cls)
        object.__setattr__(event, "__dict__", state)
        return event


def _topic_of(aggregate: type[Aggregate]) -> str:
    try:
        return get_topic(aggregate)
    except TopicError:
        raise DefinitionError(
            f"aggregate {aggregate.__module__}.{aggregate.__qualname__} is defined twice; keep one definition, or "
            "restart the process"
        ) from None


def _damaged(stored: StoredEvent, why: str) -> EventError:
    return EventError(
        str(stored.originator_id),
        stored.originator_version,
        f"the stored {shorten(stored.topic)[1:-1]} cannot be read: {why}",
        "restore the row, or add an upcaster if the class of the event has changed",
    )


def changed_error(stored: StoredEvent) -> ChangedEventError:
    """Return the error for a stored event that does not match its checksum."""
    problem = "the stored event was changed: its checksum does not match"
    notification_id = stored.id if isinstance(stored, Notification) else None
    return ChangedEventError(
        str(stored.originator_id), stored.originator_version, problem, RESTORE, notification_id=notification_id
    )


class EventCodec(Mapper[str]):
    """Writes and reads the events of registered classes; it is a mapper of eventsourcing, so its readers can use it.

    An aggregate's event carries the business id; its stored stream is `<category>/<id>`. A fact carries its stream.

    Args:
        aggregates: Classes whose events the codec knows from the start; `register` adds others.
        facts: Fact classes by name; the topic is `amends.<name>`.
        limits: Bounds of one event of an aggregate.

    Raises:
        DefinitionError: Two aggregates share a category, or an event's field has a type that cannot be stored.
    """

    def __init__(
        self,
        aggregates: Iterable[type[Aggregate]] = (),
        *,
        facts: Mapping[str, type[BaseModel]] = FACTS,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(JSONTranscoder())  # the base class requires one; nothing uses it
        self._limits = limits
        self._categories: dict[str, type[Aggregate]] = {}
        self._by_topic: dict[str, _StoredFact | _StoredAggregateEvent] = {}
        self._by_class: dict[type[Any], _StoredFact | _StoredAggregateEvent] = {}
        for name, fact in facts.items():
            self._add([_StoredFact(fact, _FACT_PREFIX + name)])
        for aggregate in aggregates:
            self.register(aggregate)

    def register(self, aggregate: type[Aggregate]) -> None:
        """Add the events of an aggregate class to the allow-list; a second call changes nothing.

        Raises:
            DefinitionError: Another class has the same category, or a field has a type that cannot be stored.
        """
        category = aggregate.category()
        known = self._categories.get(category)
        if known is aggregate:
            return
        if known is not None:
            raise DefinitionError(
                f"aggregates {known.__module__}.{known.__qualname__} and {aggregate.__module__}."
                f"{aggregate.__qualname__} share the category {category!r}; set CATEGORY on one of them"
            )
        self._add([_StoredAggregateEvent(aggregate, cls, self._limits) for cls in event_classes(aggregate).values()])
        self._categories[category] = aggregate

    def _add(self, entries: Iterable[_StoredFact | _StoredAggregateEvent]) -> None:
        for entry in entries:
            self._by_topic[entry.topic] = entry
            self._by_class[entry.cls] = entry

    def to_stored(self, event: DomainEventProtocol[str]) -> StoredEvent:
        """Write an event.

        Raises:
            InputError: The event would not read back equal, or is too large or too deep.
            DefinitionError: Its class is not registered.
        """
        entry = self._by_class.get(type(event))
        if entry is None:
            raise DefinitionError(
                f"event {type(event).__module__}.{type(event).__qualname__} is not on the allow-list; "
                "register its aggregate class first"
            )
        return entry.write(event)  # type: ignore[arg-type]  # found by the event's own class

    def to_domain(self, stored: StoredEvent) -> Any:  # noqa: ANN401 - whichever class the topic names
        """Read an event.

        Raises:
            ChangedEventError: The row does not match its checksum.
            UnknownTopicError: The topic is not on the allow-list; the codec imports nothing.
            NewerFactError: A newer version of the event's class wrote it.
            EventError: The row is damaged, or does not belong in its stream.
            DefinitionError: An upcaster has a fault.
        """
        if isinstance(stored, ChangedEvent | ChangedNotification):
            raise changed_error(stored)
        entry = self._by_topic.get(stored.topic)
        if entry is None:
            raise UnknownTopicError(
                str(stored.originator_id),
                stored.originator_version,
                f"topic {shorten(stored.topic)} is unknown to this program",
                "load the module that defines the topic, or upgrade this program",
            )
        if isinstance(entry, _StoredFact) and str(stored.originator_id).partition("/")[0] in self._categories:
            raise _damaged(stored, "a fact does not belong in the stream of an aggregate")
        return entry.read(stored)

    def to_stored_event(self, domain_event: DomainEventProtocol[str]) -> StoredEvent:
        """Write an event; eventsourcing's name for `to_stored`."""
        return self.to_stored(domain_event)

    def to_domain_event(self, stored_event: StoredEvent) -> DomainEventProtocol[str]:
        """Read an event; eventsourcing's name for `to_domain`."""
        return cast("DomainEventProtocol[str]", self.to_domain(stored_event))
