"""Views of pipelines and relays as their definitions: rows for people and JSON for programs. Pure."""

from datetime import timedelta
from typing import Any

from pydantic import JsonValue

from amends.aggregates.text import shorten
from amends.cli.views.table import Column
from amends.cli.views.times import duration
from amends.pipelines.definition.pipeline import Header, Pipeline, Starts
from amends.pipelines.definition.registry import PipelineRegistry
from amends.pipelines.definition.relays import Relay, RunRelay
from amends.pipelines.definition.sinks import JsonLinesSink, KafkaSink

__all__ = [
    "PIPELINES",
    "RELAYS",
    "pipeline_fields",
    "pipeline_json",
    "pipeline_row",
    "relay_fields",
    "relay_json",
    "relay_row",
]

PIPELINES = (
    Column("pipeline", 12, copied=True),
    Column("source", 30),
    Column("messages", 10),
    Column("effect", 24),
    Column("id", 10, below=True),
    Column("key", 10, below=True),
    Column("remembers", 9, below=True),
)
"""Columns of pipelines in the catalog."""

RELAYS = (Column("relay", 12, copied=True), Column("sink", 30), Column("topics", 24))
"""Columns of relays in the catalog."""


def pipeline_row(pipeline: Pipeline[Any]) -> tuple[str, ...]:
    """Return a pipeline as a row of `PIPELINES`."""
    return (
        pipeline.name,
        str(pipeline.source),
        pipeline.model.__name__,
        _effect(pipeline),
        _function(pipeline.id),
        "the id" if pipeline.key is None else _function(pipeline.key),
        _memory(pipeline),
    )


def relay_row(relay: Relay) -> tuple[str, ...]:
    """Return a relay as a row of `RELAYS`."""
    return relay.name, _sink(relay), _topics(relay)


def pipeline_fields(pipeline: Pipeline[Any], fingerprint: str) -> list[tuple[str, str]]:
    """Return a pipeline as named fields, without those that have no value."""
    bounds = pipeline.bounds
    open_runs = pipeline.max_open_runs
    found = [
        ("source", str(pipeline.source)),
        ("messages", f"{pipeline.model.__module__}.{pipeline.model.__qualname__}"),
        ("version", str(pipeline.message_model.version)),
        ("effect", _effect(pipeline)),
        ("id", _function(pipeline.id)),
        ("key", "the id" if pipeline.key is None else _function(pipeline.key)),
        ("decoded by", "" if pipeline.decode is None else _function(pipeline.decode)),
        ("numbered by", "" if pipeline.sequence is None else _function(pipeline.sequence)),
        ("remembers", _memory(pipeline)),
        ("when busy", "leaves messages in the source" if pipeline.when_busy == "wait" else "defers messages"),
        ("open runs", "" if open_runs is None else f"at most {open_runs}"),
        ("weight", str(pipeline.weight)),
        ("batch", f"up to {bounds.batch} messages, {bounds.lock_ms} ms of the writer's lock"),
        ("bounds", f"{bounds.max_held} held messages, {bounds.max_held_per_key} of one key"),
        ("declaration", fingerprint),
    ]
    return [(name, value) for name, value in found if value]


def relay_fields(relay: Relay, fingerprint: str) -> list[tuple[str, str]]:
    """Return a relay as named fields."""
    return [("sink", _sink(relay)), ("topics", _topics(relay)), ("declaration", fingerprint)]


def pipeline_json(registry: PipelineRegistry, name: str) -> dict[str, JsonValue]:
    """Return a pipeline as JSON: its declaration, and the values that change no effect."""
    pipeline = registry.pipelines[name]
    bounds = pipeline.bounds
    return {
        "pipeline": name,
        "declaration": registry.declarations[name],
        "fingerprint": registry.fingerprint(name),
        "source": str(pipeline.source),
        "when_busy": pipeline.when_busy,
        "max_open_runs": pipeline.max_open_runs,
        "weight": pipeline.weight,
        "bounds": {each: getattr(bounds, each) for each in type(bounds).__dataclass_fields__},
    }


def relay_json(registry: PipelineRegistry, name: str) -> dict[str, JsonValue]:
    """Return a relay as JSON."""
    return {
        "relay": name,
        "declaration": registry.declarations[name],
        "fingerprint": registry.fingerprint(name),
        "sink": _sink(registry.relays[name]),
    }


def _effect(pipeline: Pipeline[Any]) -> str:
    work = pipeline.work
    if isinstance(work, Starts):
        return f"starts {work.saga.name}"
    return f"handles by {_function(work.function)}{', notifies of duplicates' if work.notify_duplicates else ''}"


def _memory(pipeline: Pipeline[Any]) -> str:
    if isinstance(pipeline.work, Starts):
        return "by the run"
    span = duration(pipeline.remember // timedelta(milliseconds=1))
    return f"{span}, numbers" if pipeline.sequence is not None else span


def _sink(relay: Relay) -> str:
    sink = relay.sink
    if isinstance(sink, JsonLinesSink):
        return f"files in {shorten(sink.folder)}"
    return f"{'Kafka' if isinstance(sink, KafkaSink) else 'NATS'} at {sink.servers}"


def _topics(relay: Relay) -> str:
    if isinstance(relay, RunRelay):
        of = "" if relay.sagas is None else f" of {', '.join(sorted(relay.sagas))}"
        return f"closed runs{of} as {relay.topic}"
    topics = relay.topics
    if topics is None:
        return "all"
    named = ((topic, relay.destination(topic)) for topic in sorted(topics))
    return ", ".join(topic if topic == name else f"{topic} as {name}" for topic, name in named)


def _function(function: object) -> str:
    if isinstance(function, Header):
        return f"header {function.name}"
    return str(getattr(function, "__qualname__", ""))
