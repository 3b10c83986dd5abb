"""`PartitionFetcher`: the messages of one partition, from an explicit position. Does I/O; its methods block.

The client reads from positions that the pipeline keeps in its store: it is never a member of a consumer group, and it
never reads a position from the broker. It stops at a position that the broker does not have, and `settle` finds out
the reason: the broker has deleted old messages, or the partition is another one than before.
"""

import time
from collections import deque
from collections.abc import Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from amends.pipelines.kafka.client import Broker, Trouble, code_of
from amends.pipelines.kafka.cursors import Cursor
from amends.pipelines.source import Lost, RawMessage, Read, SourceReplacedError, Start

__all__ = ["PartitionFetcher"]

_SETTINGS = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",  # never jump; `settle` decides
    "enable.partition.eof": True,
    "allow.auto.create.topics": False,
    "isolation.level": "read_committed",
    "queued.max.messages.kbytes": 8192,
    "fetch.queue.backoff.ms": 20,  # 1 s by default, for which a reader with a full queue would wait
}
_PIECE_S = 0.25  # a call into the client that nothing can interrupt
_QUERY_S = 5.0
SETTLE_S = 5.0  # a new leader may not know the latest messages for a moment


class PartitionFetcher:
    """Reads one partition. One thread at a time uses it.

    Args:
        broker: The brokers.
        group: Name of the consumer group under which the broker shows the committed positions to monitoring tools.
        topic: Name of the topic.
        partition: Number of the partition.

    Raises:
        AmendsError: The client refuses the settings, of the type `broker.errors.setup`.
    """

    def __init__(self, broker: Broker, group: str, topic: str, partition: int) -> None:
        self._broker = broker
        self._topic = topic
        self._partition = partition
        self._trouble = Trouble()
        settings = {**broker.settings(), **_SETTINGS, "group.id": group, "error_cb": self._trouble.record}
        try:
            self._consumer = Consumer(settings)
        except KafkaException as error:
            raise broker.invalid(error) from error
        self._ahead: deque[RawMessage] = deque()
        self._next = 0  # of the pipeline
        self._fetched = 0  # the position after the last message or hole that the client has delivered
        self._seen: Cursor | None = None  # the last message that the pipeline has
        self._lost: Lost | None = None
        self._heard = False  # a fetch has been answered, so the client knows the end
        self._paused = False
        self.stopping = False
        self._doubtful = False  # the topic may be another one, or none
        self._unsettled = False  # the broker does not have the position

    @property
    def name(self) -> str:
        """The partition, for messages."""
        return f"partition {self._partition} of topic {self._topic!r}"

    @property
    def in_doubt(self) -> bool:
        """Whether the topic must be checked, and `settle` called, before the next `take`."""
        return self._doubtful or (self._unsettled and not self._ahead)

    # ---- begin

    def begin(self, start: Start) -> int:
        """Begin to read, and return the first position.

        Raises:
            SourceReplacedError: The partition ends before the position.
            AmendsError: The broker does not answer, or refuses the client.
        """
        oldest, end = self._watermarks()
        self._next = oldest if start.next is None else start.next
        self._seen = Cursor.parse(start.cursor)
        if self._seen is not None and self._seen.position >= self._next:
            self._seen = None  # an operator has moved the position back
        if self._next < oldest:
            self._lose(oldest)
        elif self._next > end:
            self._assign(self._next - 1)
            self._await_position(end)
        else:
            self._assign(self._next if self._seen is None else max(oldest, self._seen.position))
        return self._next

    def _await_position(self, end: int) -> None:
        """Wait until the broker proves that it has the position before the next one, although it told another end."""
        deadline = time.monotonic() + SETTLE_S
        while self._fetched < self._next and not self._ahead:
            if time.monotonic() >= deadline:
                raise self._shrunk(end)
            self._receive(1, _PIECE_S)
            if self._unsettled:
                self._unsettled = False
                time.sleep(_PIECE_S)
                self._assign(self._next - 1)

    # ---- read

    def fill(self, limit: int, wait_s: float) -> None:
        """Wait until a message is there, the time is over, or the position is in doubt.

        Args:
            limit: Largest number of messages to fetch, at least 1.
            wait_s: Longest wait in seconds.

        Raises:
            AmendsError: The broker does not answer, or refuses the client.
        """
        if self._paused:
            self._consumer.resume([self._place()])
            self._paused = False
        deadline = time.monotonic() + wait_s
        while not self._ahead and self._lost is None:
            if self._doubtful or self._unsettled or self.stopping:
                return
            left = deadline - time.monotonic()
            self._receive(limit, max(0.0, min(left, _PIECE_S)))
            if left <= 0:
                break
        if not self._ahead and self._trouble.down:
            self._watermarks(2.0)

    def take(self, limit: int, max_bytes: int) -> Read:
        """Return fetched messages, and move the position past them. It does no I/O."""
        first = self._next
        if self._lost is not None:  # all fetched messages are behind it
            lost, self._lost = self._lost, None
            self._next = lost.last + 1
            return Read(first=first, next=self._next, cursor=self._cursor(), lost=lost)
        messages: list[RawMessage] = []
        size = 0
        while self._ahead and len(messages) < limit:
            size += _size(self._ahead[0])
            if messages and size > max_bytes:
                break
            messages.append(self._ahead.popleft())
        if messages:
            self._next = messages[-1].position + 1
            self._seen = Cursor.of(messages[-1])
        if not self._ahead:
            self._next = max(self._next, self._fetched)  # past holes: deleted messages and marks of transactions
        return Read(first=first, next=self._next, messages=messages, cursor=self._cursor())

    def settle(self) -> None:
        """Continue after the broker did not have the position.

        Check first that the topic is the same.

        Raises:
            SourceReplacedError: The partition ends before the position.
            AmendsError: The broker does not answer, or refuses the client.
        """
        self._doubtful = False
        deadline = time.monotonic() + SETTLE_S
        while self._unsettled and not self._ahead and not self.stopping:
            oldest, end = self._watermarks()
            if time.monotonic() >= deadline:
                if self._fetched > end:
                    raise self._shrunk(end)
                raise self._broker.unreachable(f"it does not have position {self._fetched} at the moment")
            self._unsettled = False
            if self._fetched < oldest:
                self._lose(oldest)
            else:
                self._assign(self._fetched)
                self._receive(1, _PIECE_S)

    def end(self) -> int:
        """Return the position after the last message.

        Raises:
            AmendsError: The broker does not answer, or refuses the client.
        """
        asked = self._watermarks()[1]
        if not self._heard and not self._paused:
            # Some brokers answer the question for the end wrongly; a fetched answer carries it as well.
            self._receive(1, 4 * _PIECE_S)
        _, known = self._consumer.get_watermark_offsets(self._place(), cached=True)
        return max(asked, known, self._next)

    def pause(self) -> None:
        """Stop fetching ahead, until the next `fill`."""
        if not self._paused:
            self._consumer.pause([self._place()])
            self._paused = True

    def commit(self, position: int) -> None:
        """Send a position to the broker, for monitoring tools. Do not wait, and ignore errors."""
        try:
            self._consumer.commit(offsets=[self._place(position)], asynchronous=True)
        except KafkaException:
            return

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()

    # ---- the client

    def _place(self, position: int | None = None) -> TopicPartition:
        if position is None:
            return TopicPartition(self._topic, self._partition)
        return TopicPartition(self._topic, self._partition, position)

    def _assign(self, position: int) -> None:
        self._fetched = position
        self._consumer.assign([self._place(position)])

    def _lose(self, oldest: int) -> None:
        self._lost = Lost(self._next, oldest - 1) if self._next < oldest else None
        self._seen = None
        self._assign(oldest)

    def _watermarks(self, timeout_s: float = _QUERY_S) -> tuple[int, int]:
        try:
            found = self._consumer.get_watermark_offsets(self._place(), timeout=timeout_s)
        except KafkaException as error:
            if code_of(error.args[0]) in {"UNKNOWN_TOPIC_OR_PART", "UNKNOWN_TOPIC_ID"}:
                raise self._broker.missing(self._topic) from error
            self._trouble.record(error.args[0])
            raise self._trouble.error(self._broker) from error
        self._trouble.clear()
        return found

    def _receive(self, limit: int, wait_s: float) -> None:
        """Accept the messages that are there, or wait for the first."""
        messages = self._consumer.consume(1, wait_s)
        if messages and limit > 1:
            messages += self._consumer.consume(limit - 1, 0)
        for message in messages:
            error = message.error()
            if error is None:
                self._accept(message)
            else:
                self._accept_event(error, message.offset() or 0)

    def _accept(self, message: Message) -> None:
        self._heard = True
        self._trouble.clear()
        raw = _raw(message)
        if raw.position < self._fetched:
            self._doubtful = True
            return
        self._fetched = raw.position + 1
        seen = self._seen
        if raw.position >= self._next:
            self._ahead.append(raw)
        elif seen is not None and raw.position == seen.position and Cursor.of(raw) != seen:
            raise SourceReplacedError(self.name, expected=f"message {seen}", found=f"message {Cursor.of(raw)}")

    def _accept_event(self, error: KafkaError, position: int) -> None:
        code = code_of(error)
        if code == "_PARTITION_EOF":
            self._heard = True
            self._trouble.clear()
            self._fetched = max(self._fetched, position)
        elif code in {"_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE"}:
            self._unsettled = True
        elif code in {"UNKNOWN_TOPIC_OR_PART", "UNKNOWN_TOPIC_ID", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION"}:
            self._doubtful = True
        elif code != "GROUP_AUTHORIZATION_FAILED":  # positions are committed as a courtesy only
            self._trouble.record(error)

    def _cursor(self) -> str:
        return "" if self._seen is None else str(self._seen)

    def _shrunk(self, end: int) -> SourceReplacedError:
        return SourceReplacedError(self.name, expected=f"{self._next} positions or more", found=f"{end} positions")


def _raw(message: Message) -> RawMessage:
    try:
        headers = tuple((name, _bytes(value)) for name, value in _pairs(message.headers()))
    except UnicodeDecodeError:
        headers = ()  # the client cannot return the headers if one has a name that is not text
    kind, time_ms = message.timestamp()
    return RawMessage(message.offset() or 0, message.key(), message.value(), headers, time_ms if kind else None)


def _pairs(headers: object) -> Sequence[tuple[str, str | bytes | None]]:
    return headers if isinstance(headers, list) else ()  # the client accepts dictionaries, but returns lists


def _bytes(value: str | bytes | None) -> bytes:
    if value is None:
        return b""
    return value.encode() if isinstance(value, str) else value


def _size(message: RawMessage) -> int:
    headers = sum(len(name) + len(value) for name, value in message.headers)
    return len(message.key or b"") + len(message.value or b"") + headers
