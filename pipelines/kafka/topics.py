"""`Topics`: the metadata of topics, as the brokers have them now. Does I/O; its methods block.

Fails with the errors of the broker's `ErrorTypes`: a refusal at once, no answer after `CONNECT_S` seconds.
"""

import time
from collections.abc import Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import NamedTuple, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from amends.pipelines.kafka.client import CONNECT_S, Broker, Trouble, code_of

__all__ = ["NO_TOPIC", "Topic", "Topics"]

_NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"  # zero, the answer of brokers that know no ids of topics
NO_TOPIC = frozenset({"UNKNOWN_TOPIC_OR_PART", "UNKNOWN_TOPIC_ID", "TOPIC_EXCEPTION", "_UNKNOWN_TOPIC"})
_ATTEMPT_S = 1.0


class Topic(NamedTuple):
    """A topic.

    Attributes:
        incarnation: `topic:<id>`; `cluster:<id>` if the broker knows no ids of topics; empty while the cluster has no
            controller and no broker can tell.
        partitions: Numbers of the partitions that exist, in order.
    """

    incarnation: str
    partitions: tuple[int, ...]


class _TopicMetadata(Protocol):
    """The client's answer about one topic; the client has no types for it."""

    error: KafkaError | None
    partitions: Mapping[int, object]


class _Metadata(Protocol):
    """The client's answer about a cluster."""

    cluster_id: str
    controller_id: int
    brokers: Mapping[int, object]
    topics: Mapping[str, _TopicMetadata]


class Topics:
    """Reads the metadata of topics, and never creates a topic by it.

    Args:
        broker: The brokers.

    Raises:
        AmendsError: The client refuses the settings, of the type `broker.errors.setup`.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._trouble = Trouble()
        settings = broker.settings()
        try:
            # An administrator's client would create the topic, where brokers create topics on demand.
            self._consumer = Consumer(
                settings
                | {"group.id": "amends", "enable.auto.commit": False, "allow.auto.create.topics": False}
                | {"error_cb": self._trouble.record}
            )
            self._admin = AdminClient(settings)
        except KafkaException as error:
            raise broker.invalid(error) from error

    def topic(self, name: str) -> Topic:
        """Return a topic.

        Raises:
            AmendsError: The topic does not exist, the broker refuses the client, or does not answer.
        """
        metadata = self._metadata(name)
        found = metadata.topics[name]
        if found.error is not None:
            raise self._error(found.error, name)
        return Topic(self._incarnation(name, metadata), tuple(sorted(found.partitions)))

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()

    def _metadata(self, name: str) -> _Metadata:
        deadline = time.monotonic() + CONNECT_S
        while True:
            try:
                metadata: _Metadata = self._consumer.list_topics(name, timeout=_ATTEMPT_S)
            except KafkaException as error:
                self._consumer.poll(0.1)  # calls back for each failure
                if self._trouble.refusal or time.monotonic() >= deadline:
                    raise self._trouble.error(self._broker) from error
            else:
                self._trouble.clear()
                return metadata

    def _incarnation(self, name: str, metadata: _Metadata) -> str:
        if metadata.controller_id not in metadata.brokers:
            return ""
        answers = self._admin.describe_topics(TopicCollection([name]), request_timeout=CONNECT_S)
        try:
            found = str(answers[name].result(CONNECT_S + 1).topic_id)
        except FutureTimeoutError as error:
            raise self._broker.unreachable("no answer in time") from error
        except KafkaException as error:
            if code_of(error.args[0]) != "_UNSUPPORTED_FEATURE":
                raise self._error(error.args[0], name) from error
            found = _NO_ID
        return f"cluster:{metadata.cluster_id}" if found == _NO_ID else f"topic:{found}"

    def _error(self, error: KafkaError, name: str) -> Exception:
        code = code_of(error)
        if code in NO_TOPIC:
            return self._broker.missing(name)
        if code.endswith("AUTHORIZATION_FAILED"):
            return self._broker.refused(f"the user may not read topic {name!r}")
        return self._broker.unreachable(error.str())
