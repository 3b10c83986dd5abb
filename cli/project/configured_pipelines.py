"""Pipelines and relays with the values of their settings, and their credentials.

A command reads the secrets from the environment when it connects, and not before.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from inspect import signature
from typing import Any, TypeVar

from amends.aggregates.errors import DefinitionError, InputError
from amends.aggregates.text import shorten
from amends.cli.project.pipeline_settings import SECRETS, PipelineSettings
from amends.pipelines.definition.access import Access
from amends.pipelines.definition.bounds import Bounds
from amends.pipelines.definition.pipeline import Pipeline
from amends.pipelines.definition.relays import Relay
from amends.pipelines.definition.sinks import JsonLinesSink, KafkaSink, NatsSink, SinkDescription
from amends.pipelines.definition.sources import JsonLinesSource, KafkaSource, NatsSource, Source, StoreSource

__all__ = ["access_of", "configured_pipeline", "configured_relay"]

T = TypeVar("T")

_SOURCES: Mapping[str, Callable[..., Source]] = {
    "kafka": KafkaSource,
    "nats": NatsSource,
    "jsonl": JsonLinesSource,
    "store": StoreSource,
}
_SINKS: Mapping[str, Callable[..., SinkDescription]] = {"kafka": KafkaSink, "nats": NatsSink, "jsonl": JsonLinesSink}
_BOUNDS = tuple(field.name for field in fields(Bounds))
_OF_PIPELINES = frozenset({"source", "mode", "max_open_runs", "weight", *_BOUNDS})


def configured_pipeline(pipeline: Pipeline[Any], settings: PipelineSettings | None) -> Pipeline[Any]:
    """Return a pipeline with the values of its settings.

    Raises:
        InputError: A setting does not fit the pipeline.
    """
    if settings is None:
        return pipeline
    place, given = f"pipelines.{pipeline.name}", settings.given
    if settings.sink is not None:
        raise InputError(f"{place}.sink: {pipeline.name!r} is a pipeline, which has a source; remove sink")
    source = pipeline.source if settings.source is None else _described(settings.source, _SOURCES, f"{place}.source")
    if settings.servers is not None:
        source = _at_servers(source, settings.servers, place)
    bounds = {name: given.get(name, getattr(pipeline.bounds, name)) for name in _BOUNDS}
    try:
        return pipeline.configured(
            source=source, bounds=Bounds(**bounds), max_open_runs=settings.max_open_runs, weight=settings.weight
        )
    except DefinitionError as error:
        raise InputError(f"[{place}] does not fit: {error}") from None


def configured_relay(relay: Relay, settings: PipelineSettings | None) -> Relay:
    """Return a relay with the values of its settings.

    Raises:
        InputError: A setting does not fit the relay.
    """
    if settings is None:
        return relay
    place = f"pipelines.{relay.name}"
    if wrong := sorted(_OF_PIPELINES & settings.given.keys()):
        raise InputError(f"{place}.{wrong[0]}: {relay.name!r} is a relay, which has no such setting; remove it")
    sink = relay.sink if settings.sink is None else _described(settings.sink, _SINKS, f"{place}.sink")
    if settings.servers is not None:
        sink = _at_servers(sink, settings.servers, place)
    return relay.to(sink)


def _described(table: dict[str, Any], kinds: Mapping[str, Callable[..., T]], place: str) -> T:
    """Return the source or sink that a table describes."""
    members = dict(table)
    kind = members.pop("kind", None)
    if not isinstance(kind, str) or kind not in kinds:
        raise InputError(f"{place}.kind is {shorten(kind)}; use one of {', '.join(kinds)}")
    known = list(signature(kinds[kind]).parameters)
    for key in members:
        if key not in known:
            raise InputError(f"{place}: {shorten(key)} is not a field of kind {kind!r}; use {', '.join(known)}")
    try:
        return kinds[kind](**members)
    except DefinitionError as error:
        raise InputError(f"{place} is refused: {error}") from None
    except TypeError:
        raise InputError(f"{place} is incomplete; kind {kind!r} has the fields {', '.join(known)}") from None


def _at_servers(value: T, servers: str, place: str) -> T:
    if not isinstance(value, KafkaSource | NatsSource | KafkaSink | NatsSink):
        raise InputError(f"{place}.servers: {type(value).__name__} has no servers; remove the setting")
    try:
        return replace(value, servers=servers)
    except DefinitionError as error:
        raise InputError(f"{place}.servers is refused: {error}") from None


def access_of(name: str, settings: PipelineSettings | None, environment: Mapping[str, str] = os.environ) -> Access:
    """Return the credentials of a pipeline or relay; this reads the secrets.

    Args:
        name: Its name.
        settings: Its settings; `None` if it has none.
        environment: The environment variables.

    Raises:
        InputError: A variable that the settings name is not set.
    """
    if settings is None:
        return Access()
    secrets: dict[str, Any] = {}
    for key in sorted(SECRETS):
        variable = getattr(settings, f"{key}_env")
        if variable is None:
            continue
        if not environment.get(variable):
            raise InputError(
                f"environment variable {variable} is not set, but pipelines.{name}.{key}_env names it; set it"
            )
        secrets[key] = environment[variable]
    plain = {field.name for field in fields(Access)} - SECRETS
    return Access(**{key: value for key, value in settings.given.items() if key in plain}, **secrets)
