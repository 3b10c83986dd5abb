"""The declaration of a pipeline or relay: the parts of its definition that decide its effect, as JSON. Pure.

A store keeps the declaration that its messages were read with. A worker whose definition differs does not run until
somebody has declared the change. Addresses, credentials and bounds are no part of it, because they change no effect.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from pydantic import JsonValue

from amends.pipelines.definition.pipeline import Handles, Header, Pipeline, Starts
from amends.pipelines.definition.relays import Relay, RunRelay
from amends.pipelines.definition.sinks import JsonLinesSink, KafkaSink
from amends.pipelines.definition.sources import JsonLinesSource, KafkaSource, NatsSource, Source

__all__ = ["declaration_of", "relay_declaration_of"]


def declaration_of(pipeline: Pipeline[Any]) -> dict[str, JsonValue]:
    """Return the declaration of a pipeline.

    Raises:
        DefinitionError: The pipeline does nothing with its messages, or its model is not valid.
    """
    return {
        "source": _source(pipeline.source),
        "model": f"{pipeline.model.__module__}:{pipeline.model.__qualname__}",
        "version": pipeline.message_model.version,
        "id": _function(pipeline.id),
        "key": _function(pipeline.key),
        "decode": _function(pipeline.decode),
        "sequence": _function(pipeline.sequence),
        "remember_ms": pipeline.remember // timedelta(milliseconds=1),
        "work": _work(pipeline.work),
    }


def relay_declaration_of(relay: Relay) -> dict[str, JsonValue]:
    """Return the declaration of a relay."""
    if isinstance(relay, RunRelay):
        sagas: JsonValue = None if relay.sagas is None else [*sorted(relay.sagas)]
        return {"sink": _sink(relay), "closed_runs": {"topic": relay.topic, "sagas": sagas}}
    topics = relay.topics
    return {
        "sink": _sink(relay),
        "topics": None if topics is None else {topic: relay.destination(topic) for topic in sorted(topics)},
    }


def _source(source: Source) -> dict[str, JsonValue]:
    match source:
        case KafkaSource():
            return {"kind": "kafka", "topic": source.topic}
        case NatsSource():
            return {"kind": "nats", "stream": source.stream, "subject": source.subject}
        case JsonLinesSource():
            return {"kind": "jsonl", "pattern": source.pattern, "envelope": source.envelope}
        case _:
            return {"kind": "store", "topic": source.topic}


def _sink(relay: Relay) -> dict[str, JsonValue]:
    if isinstance(relay.sink, JsonLinesSink):
        return {"kind": "jsonl", "folder": relay.sink.folder}
    return {"kind": "kafka" if isinstance(relay.sink, KafkaSink) else "nats"}


def _work(work: Starts | Handles) -> dict[str, JsonValue]:
    if isinstance(work, Starts):
        return {"kind": "starts", "saga": work.saga.name, "mapping": _function(work.mapping)}
    return {
        "kind": "handles",
        "function": _function(work.function),
        "notify_duplicates": work.notify_duplicates,
    }


def _function(function: Callable[..., Any] | Header | None) -> JsonValue:
    if function is None:
        return None
    return f"header {function.name}" if isinstance(function, Header) else f"{function.__module__}:{_name(function)}"


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))
