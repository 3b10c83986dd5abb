"""`Relay` and `RunRelay`: the definitions of the way of messages from the store to a destination. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from amends.aggregates.errors import DefinitionError
from amends.aggregates.text import shorten
from amends.pipelines.definition.sinks import JsonLinesSink, KafkaSink, NatsSink, SinkDescription
from amends.sagas.definition.saga import Saga
from amends.sagas.definition.signatures import check_name

__all__ = ["Relay", "RunRelay", "check_relays"]


class Relay:
    """The way of messages from the outbox to a destination: at least once, in order, under ids that stay the same.

    A relay deletes a message from the outbox when the destination has acknowledged it, so only one relay may publish
    a topic.

    Args:
        name: Its name in commands, configuration and journal.
        sink: The destination; `[pipelines.NAME]` in `amends.toml` may replace it.
        topics: The topics of the outbox that it publishes, or a mapping from them to the names that the destination
            uses; `None` for all topics, under their own names.

    Raises:
        DefinitionError: An argument is not valid.
    """

    def __init__(
        self, name: str, sink: SinkDescription, *, topics: Sequence[str] | Mapping[str, str] | None = None
    ) -> None:
        self.name = check_name(name, "relay")
        if not isinstance(sink, SinkDescription):
            raise DefinitionError(
                f"relay {name!r}: {type(sink).__name__} is no sink; "
                f"use {KafkaSink.__name__}, {NatsSink.__name__} or {JsonLinesSink.__name__}"
            )
        self.sink = sink
        self._destinations = _destinations(name, topics)

    @property
    def topics(self) -> frozenset[str] | None:
        """The topics of the outbox that it publishes; `None` for all."""
        return None if self._destinations is None else frozenset(self._destinations)

    def destination(self, topic: str) -> str:
        """Return the name that the destination uses for a topic."""
        return topic if self._destinations is None else self._destinations[topic]

    def to(self, sink: SinkDescription) -> "Relay":
        """Return this relay with another destination."""
        return Relay(self.name, sink, topics=self._destinations)


class RunRelay(Relay):
    """The way of closed runs to a destination: one message for each run that completes or is compensated.

    A message is the object that `amends list --json` prints of the run, as it was when it closed: it has the declared
    business keys, but neither input nor results. Its key is the run's id. A run that an operator reopens is another
    message when it closes again. The first message is that of the oldest closed run of the store.

    Args:
        name: Its name in commands, configuration and journal.
        sink: The destination; `[pipelines.NAME]` in `amends.toml` may replace it.
        topic: Name of the topic, subject or file at the destination.
        sagas: The sagas whose runs it publishes, or their names; `None` for all.

    Raises:
        DefinitionError: An argument is not valid.
    """

    def __init__(
        self, name: str, sink: SinkDescription, *, topic: str, sagas: Sequence[Saga[Any] | str] | None = None
    ) -> None:
        super().__init__(name, sink, topics=[topic])
        self.topic = topic
        if isinstance(sagas, str):
            raise DefinitionError(f"relay {name!r}: sagas is one text; write sagas=[{sagas!r}]")
        if sagas is not None and not sagas:
            raise DefinitionError(f"relay {name!r} publishes no saga; name some, or leave sagas out to publish all")
        self.sagas = None if sagas is None else frozenset(_saga_name(name, each) for each in sagas)

    @property
    def topics(self) -> frozenset[str]:
        """None of the outbox."""
        return frozenset()

    def to(self, sink: SinkDescription) -> "RunRelay":
        """Return this relay with another destination."""
        return RunRelay(self.name, sink, topic=self.topic, sagas=None if self.sagas is None else sorted(self.sagas))


def _saga_name(relay: str, saga: object) -> str:
    if isinstance(saga, Saga):
        return saga.name
    if isinstance(saga, str):
        return check_name(saga, "saga")
    raise DefinitionError(f"relay {relay!r}: {shorten(saga)} is no saga; use sagas or their names")


def check_relays(relays: Iterable[Relay]) -> None:
    """Check that no topic has two relays.

    Raises:
        DefinitionError: Two relays publish one topic.
    """
    for one, other in combinations(relays, 2):
        mine, others = one.topics, other.topics
        if mine is None:
            shared = "all topics" if others is None else _listed(others)
        else:
            shared = _listed(mine if others is None else mine & others)
        if shared:
            raise DefinitionError(
                f"relays {one.name!r} and {other.name!r} both publish {shared}; "
                "a message leaves the outbox when its relay has published it, so a topic has one relay"
            )


def _listed(topics: frozenset[str]) -> str:
    return ", ".join(shorten(topic) for topic in sorted(topics))


def _destinations(name: str, topics: Sequence[str] | Mapping[str, str] | None) -> Mapping[str, str] | None:
    if topics is None:
        return None
    if isinstance(topics, str):
        raise DefinitionError(f"relay {name!r}: topics is one text; write topics=[{topics!r}]")
    pairs = dict(topics) if isinstance(topics, Mapping) else {topic: topic for topic in topics}
    if not pairs:
        raise DefinitionError(f"relay {name!r} publishes no topic; name some, or leave topics out to publish all")
    names: list[object] = [*pairs, *pairs.values()]
    for text in names:
        if not isinstance(text, str) or not text:
            raise DefinitionError(
                f"relay {name!r}: {shorten(text)} is no name of a topic; use a text of at least 1 character"
            )
    return pairs
