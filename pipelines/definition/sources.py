"""Descriptions of sources: values that name a source, without a connection to it. Pure."""

from dataclasses import dataclass

__all__ = ["JsonLinesSource", "KafkaSource", "NatsSource", "Source", "StoreSource"]


@dataclass(frozen=True, slots=True)
class KafkaSource:
    """A topic of Kafka, or of a broker that speaks its protocol. Needs `amends[kafka]`.

    Attributes:
        topic: Name of the topic; each of its partitions is a partition of the pipeline.
        servers: Addresses as `host:port`, separated by commas.
    """

    topic: str
    servers: str = "127.0.0.1:9092"


@dataclass(frozen=True, slots=True)
class NatsSource:
    """A JetStream stream of NATS, which is one partition. Needs `amends[nats]`.

    Attributes:
        stream: Name of the stream.
        subject: Only messages of this subject, with NATS' wildcards; `None` for all.
        servers: URLs as `nats://host:port`, separated by commas.
    """

    stream: str
    subject: str | None = None
    servers: str = "nats://127.0.0.1:4222"


@dataclass(frozen=True, slots=True)
class JsonLinesSource:
    """Files with one JSON value on each line, possibly compressed (`.gz`); each file is a partition.

    Attributes:
        pattern: Path with wildcards, relative to the project's folder, such as `in/*.jsonl`. It must not match the
            names that rotated files get.
        envelope: Whether each line is one that `JsonLinesSink` writes, with key, headers and value of a message.
    """

    pattern: str
    envelope: bool = False


@dataclass(frozen=True, slots=True)
class StoreSource:
    """The outbox of another Amends store, which is one partition.

    Attributes:
        url: URL of the store.
        topic: Only messages of this topic.
    """

    url: str
    topic: str


Source = KafkaSource | NatsSource | JsonLinesSource | StoreSource
"""Any description of a source."""
