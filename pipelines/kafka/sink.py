"""The sink for Kafka: an idempotent producer. Does I/O.

The producer keeps the order of each partition and removes the duplicates of its own retries. When the brokers do not
answer in time, the sink drops the producer with everything that it has not sent: the messages that a broker has taken
are then the first ones of each partition, so that the relay's next attempt keeps the order of every key.
"""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from amends.aggregates.errors import AmendsError
from amends.aggregates.outbox import ID_HEADER
from amends.pipelines.definition.access import Access
from amends.pipelines.definition.sinks import KafkaSink
from amends.pipelines.kafka.client import Broker, ErrorTypes, Trouble, code_of
from amends.pipelines.kafka.threads import run_in
from amends.pipelines.kafka.topics import NO_TOPIC, Topics
from amends.pipelines.sink import Published, Refusal, SinkSetupError, SinkUnreachableError

__all__ = ["KafkaPublisher", "send_alone"]

PUBLISH_S = 10.0
"""Longest time in seconds for which the sink waits for the acknowledgement of a batch."""

MAX_MESSAGE_BYTES = 8_000_000
"""Largest message that the producer sends; most brokers refuse smaller ones."""

_OPEN = Access()
_ERRORS = ErrorTypes(SinkSetupError, SinkUnreachableError)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
_TOO_LARGE = "MSG_SIZE_TOO_LARGE"
_HELD_UP = "HELD_UP"
_REFUSED = {
    _TOO_LARGE: "the broker refuses it as too large",
    "_MSG_SIZE_TOO_LARGE": "the broker refuses it as too large",
    "INVALID_RECORD": "the broker refuses it as invalid",
    "INVALID_MSG": "the broker refuses it as invalid",
    "POLICY_VIOLATION": "it violates a policy of the broker",
}
_OVERHEAD_BYTES = 200  # more than the protocol needs for a message


class KafkaPublisher:
    """Publishes messages to topics; the `Sink` of Kafka.

    Args:
        sink: The brokers.
        access: The credentials and certificates.

    Raises:
        SinkSetupError: The client refuses the settings, such as a file that it cannot read.
    """

    def __init__(self, sink: KafkaSink, *, access: Access = _OPEN) -> None:
        self._broker = Broker(sink.servers, access, _ERRORS)
        self._topics = Topics(self._broker)
        self._existing: set[str] = set()
        self._trouble = Trouble()
        self._producer: Producer | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="amends-kafka-sink")

    async def refusal(self, message: Published) -> str | None:
        """Return the reason for which no broker would take a message; see `Sink.refusal`."""
        if not _NAME.fullmatch(message.topic) or message.topic in {".", ".."}:
            return "Kafka allows no topic of that name"
        if _size(message) > MAX_MESSAGE_BYTES:
            return f"it has over {MAX_MESSAGE_BYTES} bytes"
        return None

    async def publish(self, messages: Sequence[Published]) -> Sequence[Refusal]:
        """Publish messages in order, and wait until the brokers have acknowledged each of them; see `Sink.publish`.

        Raises:
            SinkSetupError: A topic does not exist, or a broker refuses the client.
            SinkUnreachableError: The brokers do not answer within `PUBLISH_S` seconds.
        """
        return await run_in(self._thread, lambda: self._publish(messages))

    async def close(self) -> None:
        """Close the connection."""
        await run_in(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        self._drop()
        self._topics.close()

    def _publish(self, messages: Sequence[Published]) -> Sequence[Refusal]:
        for topic in {message.topic for message in messages} - self._existing:
            self._topics.topic(topic)  # a producer would create it, or wait for it
            self._existing.add(topic)
        refused = self._send(range(len(messages)), messages)
        if _TOO_LARGE not in refused.values():
            return _refusals(refused)
        return _refusals(send_alone(refused, messages, lambda index: self._send([index], messages)))

    def _send(self, indexes: Sequence[int], messages: Sequence[Published]) -> dict[int, str]:
        """Publish messages, wait for all answers, and return the error codes of those that are refused for good."""
        outcomes: dict[int, KafkaError | None] = {}
        deadline = time.monotonic() + PUBLISH_S
        try:
            for index in indexes:
                self._produce(messages[index], _Answer(outcomes, index), deadline)
            while len(outcomes) < len(indexes):
                self._wait(deadline)
        except (KafkaException, BufferError, AmendsError) as error:
            self._drop()
            if isinstance(error, KafkaException):
                raise self._broker.unreachable(error.args[0].str()) from error
            raise
        return self._judge(outcomes, messages)

    def _produce(self, message: Published, answer: "_Answer", deadline: float) -> None:
        headers = [(name, value.encode()) for name, value in message.headers]
        while True:
            try:
                self._client().produce(
                    message.topic,
                    message.value,
                    message.key.encode(),
                    headers=[*headers, (ID_HEADER, message.id.encode())],
                    on_delivery=answer,
                )
            except BufferError:  # the client's queue is full
                self._wait(deadline)
            except KafkaException as error:
                if code_of(error.args[0]) not in _REFUSED:
                    raise
                answer(error.args[0], None)
                return
            else:
                return

    def _wait(self, deadline: float) -> None:
        self._client().poll(0.1)
        if self._trouble.refusal or time.monotonic() >= deadline:
            raise self._trouble.error(self._broker)

    def _judge(self, outcomes: dict[int, KafkaError | None], messages: Sequence[Published]) -> dict[int, str]:
        refused: dict[int, str] = {}
        for index, error in outcomes.items():
            if error is None:
                continue
            code = code_of(error)
            if code in _REFUSED:
                refused[index] = code
                continue
            self._drop()
            if code in NO_TOPIC:
                self._existing.discard(messages[index].topic)
                raise self._broker.missing(messages[index].topic)
            if code.endswith("AUTHORIZATION_FAILED"):
                raise self._broker.refused(f"the user may not write to topic {messages[index].topic!r}")
            raise self._broker.unreachable(error.str())
        self._trouble.clear()
        return refused

    def _client(self) -> Producer:
        if self._producer is None:
            self._trouble.clear()
            settings = self._broker.settings() | {
                "enable.idempotence": True,
                "message.timeout.ms": 0,  # `PUBLISH_S` bounds the batch; a single message would leave a gap
                "message.max.bytes": MAX_MESSAGE_BYTES + _OVERHEAD_BYTES,
                "linger.ms": 2,
                "partitioner": "murmur2_random",  # the one of Kafka's own clients
                "error_cb": self._trouble.record,
            }
            try:
                self._producer = Producer(settings)
            except KafkaException as error:
                raise self._broker.invalid(error) from error
        return self._producer

    def _drop(self) -> None:
        """Drop the producer with all messages that it has not sent."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.poll(0)


class _Answer:
    """Stores the outcome of a message; called by the client once."""

    def __init__(self, outcomes: dict[int, KafkaError | None], index: int) -> None:
        self._outcomes = outcomes
        self._index = index

    def __call__(self, error: KafkaError | None, _message: Message | None) -> None:
        self._outcomes[self._index] = error


def send_alone(
    refused: Iterable[int], messages: Sequence[Published], send: Callable[[int], dict[int, str]]
) -> dict[int, str]:
    """Publish refused messages one by one: a broker that finds one too large refuses all that came with it.

    Args:
        refused: Indexes of the messages.
        messages: All messages.
        send: Publishes the message with an index, and returns its error code if the broker refuses it.

    Returns:
        The error codes of the messages that the broker refuses, and of the later ones of their keys, by index.
    """
    codes: dict[int, str] = {}
    for index in sorted(refused):
        held_up = {(messages[other].topic, messages[other].key) for other in codes}
        codes |= {index: _HELD_UP} if (messages[index].topic, messages[index].key) in held_up else send(index)
    return codes


def _refusals(refused: dict[int, str]) -> Sequence[Refusal]:
    return [
        Refusal(index, _REFUSED.get(code, "an earlier message of its key is refused"))
        for index, code in sorted(refused.items())
    ]


def _size(message: Published) -> int:
    headers = sum(len(name.encode()) + len(value.encode()) + 10 for name, value in message.headers)
    return len(message.value) + len(message.key.encode()) + len(message.id) + headers + _OVERHEAD_BYTES
