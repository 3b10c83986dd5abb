"""Checks of the arguments of a pipeline. Each fault is a `DefinitionError` of one line. Pure."""

import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any, get_args

from pydantic import BaseModel

from amends.aggregates.errors import DefinitionError
from amends.aggregates.journal import StepWork
from amends.aggregates.text import shorten
from amends.pipelines.definition.sources import Source
from amends.sagas.definition.saga import Saga
from amends.sagas.definition.signatures import (
    annotations,
    fits,
    label,
    mapping_types,
    parameters,
    refuse_async,
    type_name,
)

__all__ = [
    "check_count",
    "check_function",
    "check_handler",
    "check_header",
    "check_model",
    "check_remember",
    "check_source",
    "check_start",
]

_LONGEST = timedelta(days=3_660)


def check_header(name: object) -> None:
    """Check the name of a header.

    Raises:
        DefinitionError: The name is not text, empty or not printable.
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise DefinitionError(f"header name {shorten(name)}: use the name of a header, such as Header('order-id')")


def check_source(source: object, what: str) -> None:
    """Check that a value describes a source.

    Raises:
        DefinitionError: It does not.
    """
    if not isinstance(source, Source):
        kinds = ", ".join(kind.__name__ for kind in get_args(Source))
        raise DefinitionError(f"{what}: its source is {shorten(source)}; use one of {kinds}")


def check_model(model: object, what: str) -> None:
    """Check that a value is a model of pydantic.

    Raises:
        DefinitionError: It is not.
    """
    if not isinstance(model, type) or not issubclass(model, BaseModel) or model is BaseModel:
        raise DefinitionError(f"{what}: its model is {label(model)}; use a class that extends pydantic.BaseModel")


def check_remember(remember: object, what: str) -> None:
    """Check the time for which ids are remembered.

    Raises:
        DefinitionError: It is not a `timedelta` above 0 up to ten years.
    """
    if not isinstance(remember, timedelta) or not timedelta(0) < remember <= _LONGEST:
        raise DefinitionError(
            f"{what}: remember is {shorten(remember)}; use a timedelta above 0 up to ten years, such as "
            "timedelta(days=7)"
        )


def check_count(value: object, what: str, most: int) -> None:
    """Check a number.

    Raises:
        DefinitionError: It is not a whole number from 1 to `most`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise DefinitionError(f"{what} is {shorten(value)}; use a whole number from 1 to {most}")


def check_function(
    function: object,
    where: str,
    given: type,
    result: type | None = None,
    *,
    count: int = 1,
    otherwise: str = "",
) -> None:
    """Check a user's function of a message.

    Args:
        function: The function.
        where: Its place for messages.
        given: Type of its first argument.
        result: Type of its result; `None` for any.
        count: The number of its arguments.
        otherwise: Another value that is possible, for the message.

    Raises:
        DefinitionError: It is not a named function, is `async def`, takes other arguments, or its annotations do not
            fit.
    """
    named = _named(function, where, otherwise)
    first = parameters(named, count, where)[0]
    hints = annotations(named, where)
    if not fits(given, hints.get(first, Any)):
        raise DefinitionError(
            f"{where}: {named.__qualname__!r} takes {type_name(hints[first])}, but Amends calls it with "
            f"{type_name(given)}; correct its annotation"
        )
    if result is not None and not fits(hints.get("return", Any), result):
        raise DefinitionError(
            f"{where}: {named.__qualname__!r} returns {type_name(hints['return'])}; return {type_name(result)}"
        )


def check_handler(function: object, where: str, model: type) -> None:
    """Check a function that handles messages.

    Raises:
        DefinitionError: As for `check_function`; or its second parameter is annotated as another type than `StepWork`.
    """
    check_function(function, where, model, count=2)
    named = _named(function, where)
    second = parameters(named, 2, where)[1]
    hint = annotations(named, where).get(second, Any)
    if not fits(StepWork, hint):
        raise DefinitionError(
            f"{where}: the second parameter {second!r} of {named.__qualname__!r} is annotated {type_name(hint)}, but a "
            f"message has no run; annotate it {StepWork.__name__}"
        )


def check_start(function: object, where: str, model: type, saga: Saga[Any]) -> None:
    """Check a function that maps a message to the input of a saga.

    Raises:
        DefinitionError: As for `check_function`, or its parameter or result is not annotated.
    """
    named = _named(function, where)
    given, result = mapping_types(named, where)
    if not fits(model, given):
        raise DefinitionError(
            f"{where}: {named.__qualname__!r} takes {type_name(given)}, but the messages are {type_name(model)}"
        )
    if not fits(result, saga.input_type):
        raise DefinitionError(
            f"{where}: {named.__qualname__!r} returns {type_name(result)}, but the input of saga {saga.name!r} is "
            f"{type_name(saga.input_type)}"
        )


def _named(function: object, where: str, otherwise: str = "") -> Callable[..., Any]:
    """Return a function that has a name."""
    # The declaration of a pipeline names its functions, so that a change of them is noticed.
    if not (inspect.isfunction(function) or inspect.ismethod(function)) or function.__name__ == "<lambda>":
        raise DefinitionError(f"{where} is {label(function)}; use a function that is written with def{otherwise}")
    refuse_async(function, where)
    found: Callable[..., Any] = function
    return found
