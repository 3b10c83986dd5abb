"""Descriptions of sinks: values that name a destination, without a connection to it. Pure."""

from dataclasses import dataclass

from amends.pipelines.definition.addresses import check_servers, check_text

__all__ = ["JsonLinesSink", "KafkaSink", "NatsSink", "SinkDescription"]


@dataclass(frozen=True, slots=True)
class KafkaSink:
    """Topics of Kafka, or of a broker that speaks its protocol. Needs `amends[kafka]`.

    Attributes:
        servers: Addresses as `host:port`, separated by commas.

    Raises:
        DefinitionError: A field is not valid.
    """

    servers: str = "127.0.0.1:9092"

    def __post_init__(self) -> None:
        check_servers(self.servers, "KafkaSink", "broker:9092")


@dataclass(frozen=True, slots=True)
class NatsSink:
    """Subjects of NATS that a JetStream stream stores. Needs `amends[nats]`.

    Attributes:
        servers: URLs as `nats://host:port`, separated by commas.

    Raises:
        DefinitionError: A field is not valid.
    """

    servers: str = "nats://127.0.0.1:4222"

    def __post_init__(self) -> None:
        check_servers(self.servers, "NatsSink", "nats://host:4222")


@dataclass(frozen=True, slots=True)
class JsonLinesSink:
    """A folder with one file for each topic, `<topic>.jsonl`, to which the relay appends one line for each message.

    A line is a JSON object with `id`, `topic`, `key`, `headers` and `value`. `JsonLinesSource(..., envelope=True)`
    reads it.

    Attributes:
        folder: Path of the folder, relative to the project's folder. The relay creates it.

    Raises:
        DefinitionError: A field is not valid.
    """

    folder: str

    def __post_init__(self) -> None:
        check_text(self.folder, "JsonLinesSink: folder", "a path such as 'out'")


SinkDescription = KafkaSink | NatsSink | JsonLinesSink
"""Any description of a sink."""
