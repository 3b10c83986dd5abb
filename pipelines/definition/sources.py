"""Descriptions of sources: values that name a source, without a connection to it. Pure.

A description holds no credentials; those are in `access.Access`.
"""

from dataclasses import dataclass, field

from amends.aggregates.errors import DefinitionError
from amends.aggregates.store_url import mask_store_url
from amends.aggregates.text import shorten
from amends.pipelines.definition.addresses import check_servers, check_text

__all__ = ["JsonLinesSource", "KafkaSource", "NatsSource", "Source", "StoreSource"]


@dataclass(frozen=True, slots=True)
class KafkaSource:
    """A topic of Kafka, or of a broker that speaks its protocol. Needs `amends[kafka]`.

    Attributes:
        topic: Name of the topic; each of its partitions is a partition of the pipeline.
        servers: Addresses as `host:port`, separated by commas.

    Raises:
        DefinitionError: A field is not valid.
    """

    topic: str
    servers: str = "127.0.0.1:9092"

    def __post_init__(self) -> None:
        check_text(self.topic, "KafkaSource: topic", "the name of a topic")
        check_servers(self.servers, "KafkaSource", "broker:9092")

    def __str__(self) -> str:
        return f"topic {shorten(self.topic)} of Kafka at {self.servers}"


@dataclass(frozen=True, slots=True)
class NatsSource:
    """A JetStream stream of NATS, which is one partition. Needs `amends[nats]`.

    Attributes:
        stream: Name of the stream.
        subject: Only messages of this subject, with NATS' wildcards; `None` for all.
        servers: URLs as `nats://host:port`, separated by commas.

    Raises:
        DefinitionError: A field is not valid.
    """

    stream: str
    subject: str | None = None
    servers: str = "nats://127.0.0.1:4222"

    def __post_init__(self) -> None:
        check_text(self.stream, "NatsSource: stream", "the name of a stream")
        if self.subject is not None:
            check_text(self.subject, "NatsSource: subject", "a subject such as 'orders.*', or None")
        check_servers(self.servers, "NatsSource", "nats://host:4222")

    def __str__(self) -> str:
        subject = "" if self.subject is None else f", subject {shorten(self.subject)},"
        return f"stream {shorten(self.stream)}{subject} of NATS at {self.servers}"


@dataclass(frozen=True, slots=True)
class JsonLinesSource:
    """Files with one JSON value on each line, possibly compressed (`.gz`); each file is a partition.

    Attributes:
        pattern: Path with wildcards, relative to the project's folder, such as `in/*.jsonl`. It must not match the
            names that rotated files get.
        envelope: Whether each line is one that `JsonLinesSink` writes, with key, headers and value of a message.

    Raises:
        DefinitionError: The pattern is not text.
    """

    pattern: str
    envelope: bool = False

    def __post_init__(self) -> None:
        check_text(self.pattern, "JsonLinesSource: pattern", "a path such as 'in/*.jsonl'")

    def __str__(self) -> str:
        return f"files {shorten(self.pattern)}"


@dataclass(frozen=True, slots=True)
class StoreSource:
    """The outbox of another Amends store, which is one partition.

    Attributes:
        url: URL of the store; messages show it without the password.
        topic: Only messages of this topic.

    Raises:
        DefinitionError: A field is not valid.
    """

    url: str = field(repr=False)
    topic: str

    def __post_init__(self) -> None:
        check_text(self.topic, "StoreSource: topic", "the name of a topic")
        url: object = self.url
        if not isinstance(url, str) or "://" not in url:
            raise DefinitionError("StoreSource: url is not a URL; use one such as sqlite:///other/events.db")

    def __str__(self) -> str:
        return f"topic {shorten(self.topic)} of the store {mask_store_url(self.url)}"


Source = KafkaSource | NatsSource | JsonLinesSource | StoreSource
"""Any description of a source."""
