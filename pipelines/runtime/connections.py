"""Open the connection that a description of a source or sink names."""

from pathlib import Path

from amends.aggregates.errors import DefinitionError
from amends.pipelines.definition.access import Access
from amends.pipelines.definition.sinks import JsonLinesSink, NatsSink, SinkDescription
from amends.pipelines.definition.sources import JsonLinesSource, KafkaSource, NatsSource, Source
from amends.pipelines.sink import Sink
from amends.pipelines.source import SourceConnection

__all__ = ["connect_sink", "connect_source"]


def connect_source(
    name: str, source: Source, access: Access, folder: Path, *, store_id: str | None = None
) -> SourceConnection:
    """Create the connection to a source. It connects when it is used.

    Args:
        name: Name of the pipeline.
        source: The description.
        access: Credentials and certificates.
        folder: The project's folder, to which paths are relative.
        store_id: The store of the pipeline, if it takes the messages; `None` to look only.

    Raises:
        DefinitionError: The client of the source is not installed.
    """
    # Each adapter is imported only where it is used, because the clients are optional.
    try:
        match source:
            case KafkaSource():
                from amends.pipelines.kafka.source import KafkaConnection  # noqa: PLC0415 - optional

                return KafkaConnection(source, name=name, access=access)
            case NatsSource():
                from amends.pipelines.nats.source import NatsConnection  # noqa: PLC0415 - optional

                return NatsConnection(source, access)
            case JsonLinesSource():
                from amends.pipelines.files.source import JsonLinesConnection  # noqa: PLC0415 - as the others

                return JsonLinesConnection(source, folder)
            case _:
                from amends.pipelines.sql.outbox_source import StoreConnection  # noqa: PLC0415 - as the others

                return StoreConnection(source, folder, reader=None if store_id is None else f"{store_id}/{name}")
    except ModuleNotFoundError as error:
        raise _missing(f"pipeline {name!r}", error) from error


def connect_sink(name: str, sink: SinkDescription, access: Access, folder: Path) -> Sink:
    """Create the connection to a sink. It connects when it is used.

    Args:
        name: Name of the relay.
        sink: The description.
        access: Credentials and certificates.
        folder: The project's folder, to which paths are relative.

    Raises:
        DefinitionError: The client of the sink is not installed.
    """
    try:
        match sink:
            case JsonLinesSink():
                from amends.pipelines.files.sink import JsonLinesFiles  # noqa: PLC0415 - as the others

                return JsonLinesFiles(folder / sink.folder)
            case NatsSink():
                from amends.pipelines.nats.sink import NatsPublisher  # noqa: PLC0415 - optional

                return NatsPublisher(sink, access)
            case _:
                from amends.pipelines.kafka.sink import KafkaPublisher  # noqa: PLC0415 - optional

                return KafkaPublisher(sink, access=access)
    except ModuleNotFoundError as error:
        raise _missing(f"relay {name!r}", error) from error


def _missing(who: str, error: ModuleNotFoundError) -> Exception:
    extra = {"nats": "nats", "confluent_kafka": "kafka"}.get((error.name or "").partition(".")[0])
    if extra is None:
        return error
    return DefinitionError(f"{who} needs a client that is not installed; run: pip install 'amends[{extra}]'")
