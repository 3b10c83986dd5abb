"""`PipelineRegistry`: the pipelines and relays of a project by name, checked. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import JsonValue

from amends.aggregates.errors import DefinitionError, NotFoundError
from amends.aggregates.text import shorten
from amends.aggregates.values.strict_json import digest
from amends.pipelines.definition.declaration import declaration_of, relay_declaration_of
from amends.pipelines.definition.pipeline import Pipeline, Starts
from amends.pipelines.definition.relays import Relay, check_relays
from amends.sagas.definition.saga import Saga

__all__ = ["PipelineRegistry"]


class PipelineRegistry:
    """Pipelines and relays by name, with their declarations.

    Args:
        pipelines: The pipelines.
        relays: The relays.
        sagas: The sagas that the process can run, by name; `None` to skip the check.

    Attributes:
        pipelines: The pipelines by name.
        relays: The relays by name.
        declarations: The declarations of both by name: the parts of a definition that decide its effect, as JSON.

    Raises:
        DefinitionError: Two of them have one name, a pipeline does nothing with its messages, its model is not valid,
            it starts a saga that the process does not have, or two relays publish one topic.
    """

    def __init__(
        self,
        pipelines: Iterable[Pipeline[Any]] = (),
        relays: Iterable[Relay] = (),
        *,
        sagas: Mapping[str, Saga[Any]] | None = None,
    ) -> None:
        self.pipelines: dict[str, Pipeline[Any]] = {}
        self.relays: dict[str, Relay] = {}
        self.declarations: dict[str, dict[str, JsonValue]] = {}
        for pipeline in pipelines:
            self._refuse_twice(pipeline.name)
            _check_saga(pipeline, sagas)
            self.pipelines[pipeline.name] = pipeline
            self.declarations[pipeline.name] = declaration_of(pipeline)
        for relay in relays:
            self._refuse_twice(relay.name)
            self.relays[relay.name] = relay
            self.declarations[relay.name] = relay_declaration_of(relay)
        check_relays(self.relays.values())

    def _refuse_twice(self, name: str) -> None:
        if name in self.declarations:
            # One name space, because commands and [pipelines.NAME] do not tell pipelines from relays.
            raise DefinitionError(f"{name!r} is the name of two pipelines or relays; rename one of the two")

    @property
    def names(self) -> frozenset[str]:
        """The names of all pipelines and relays."""
        return frozenset(self.declarations)

    def pipeline(self, name: str) -> Pipeline[Any]:
        """Find a pipeline.

        Raises:
            NotFoundError: No pipeline has this name; the message lists the names that exist.
        """
        if name not in self.pipelines:
            raise NotFoundError(f"no pipeline is called {shorten(name)}; defined are: {_listed(self.pipelines)}")
        return self.pipelines[name]

    def relay(self, name: str) -> Relay:
        """Find a relay.

        Raises:
            NotFoundError: No relay has this name; the message lists the names that exist.
        """
        if name not in self.relays:
            raise NotFoundError(f"no relay is called {shorten(name)}; defined are: {_listed(self.relays)}")
        return self.relays[name]

    def fingerprint(self, name: str) -> str:
        """Return the fingerprint of the declaration of a pipeline or relay.

        Raises:
            NotFoundError: Neither has this name.
        """
        if name not in self.declarations:
            raise NotFoundError(
                f"no pipeline or relay is called {shorten(name)}; defined are: {_listed(self.declarations)}"
            )
        return digest(self.declarations[name])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _check_saga(pipeline: Pipeline[Any], sagas: Mapping[str, Saga[Any]] | None) -> None:
    work = pipeline.work
    if sagas is not None and isinstance(work, Starts) and sagas.get(work.saga.name) is not work.saga:
        raise DefinitionError(
            f"pipeline {pipeline.name!r} starts saga {work.saga.name!r}, which no configured module defines; "
            "add the module of the saga to modules"
        )
