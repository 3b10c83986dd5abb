"""Read the signatures of the user's functions, and raise the faults that the definition API finds in them.

All checks run while modules are loaded, before any run starts. None of them calls a user's function.
"""

import inspect
import re
import sys
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Union, get_args, get_origin

from amends.aggregates.errors import DefinitionError
from amends.aggregates.text import shorten

__all__ = [
    "annotations",
    "check_name",
    "check_target",
    "fits",
    "label",
    "mapping_types",
    "parameters",
    "refuse_async",
    "type_name",
]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")


def label(thing: object) -> str:
    """Return the name of a function, or the text of any other value, for a message about an argument."""
    if isinstance(thing, type | types.FunctionType):
        return "a lambda" if thing.__name__ == "<lambda>" else repr(thing.__qualname__)
    return f"an object of {type(thing).__qualname__!r}" if callable(thing) else shorten(thing)


def check_target(decorator: str, function: object) -> None:
    """Check that a decorator can turn the target into a step.

    Raises:
        DefinitionError: The target is not a function, or has no name.
    """
    if isinstance(function, str):
        raise DefinitionError(f"@{decorator}({function!r}): pass options by name: name={function!r}")
    if not isinstance(function, types.FunctionType):
        raise DefinitionError(f"@{decorator} of {label(function)}: decorate a function, written with def")
    if function.__name__ == "<lambda>":
        raise DefinitionError(f"@{decorator} of a lambda: write a def, because a plan refers to functions by name")


def check_name(name: object, what: str) -> str:
    """Return the name if plans, keys and Temporal can carry it.

    Raises:
        DefinitionError: The name is empty, longer than 100 characters, or contains a character other than letters,
            digits, `_`, `-` and `.`.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DefinitionError(
            f"{what} name {shorten(name)}: use 1 to 100 letters, digits, '_', '-' and '.', beginning with a letter "
            f"or '_'"
        )
    return name


def parameters(function: Callable[..., Any], count: int, where: str) -> tuple[str, ...]:
    """Return the names of a function's parameters.

    Raises:
        DefinitionError: The function cannot be called with exactly `count` positional arguments.
    """
    found = inspect.signature(function).parameters.values()
    positional = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required_others = [p for p in found if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    required = [p for p in positional if p.default is p.empty]
    if len(positional) < count or len(required) > count or required_others:
        signature = ", ".join(p.name for p in found) or "nothing"
        arguments = "1 argument" if count == 1 else f"{count} arguments"
        raise DefinitionError(
            f"{where}: takes {signature}, but Amends calls it with {arguments}; declare as many parameters"
        )
    return tuple(p.name for p in positional[:count])


def annotations(function: Callable[..., Any], where: str) -> dict[str, Any]:
    """Resolve a function's annotations, with the metadata of `Annotated`.

    Raises:
        DefinitionError: An annotation names something that does not exist, or is not a type.
    """
    try:
        return typing.get_type_hints(function, vars(sys.modules[function.__module__]), include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise DefinitionError(
            f"{where}: an annotation of {function.__qualname__!r} cannot be resolved ({error}); define or import it "
            f"at the top of the module"
        ) from None


def refuse_async(function: Callable[..., Any], where: str) -> None:
    """Refuse a coroutine function, because the writing transaction would have to wait for it.

    Raises:
        DefinitionError: The function is `async def`.
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise DefinitionError(
            f"{where}: {function.__qualname__!r} is async, but a transaction does no I/O of its own; write a plain "
            "def, or make the step an @effect"
        )


def mapping_types(mapping: Callable[..., Any], where: str) -> tuple[Any, Any]:
    """Return the parameter type and the result type of a mapping function.

    Raises:
        DefinitionError: Its parameter or its result is not annotated.
    """
    hints = annotations(mapping, where)
    parameter = parameters(mapping, 1, where)[0]
    for needed in (parameter, "return"):
        if needed not in hints:
            raise DefinitionError(f"{where}: annotate {needed!r}, so that Amends can check it against saga and step")
    return hints[parameter], hints["return"]


def type_name(kind: Any) -> str:  # noqa: ANN401 - any annotation
    """Return a type's name as an author would write it."""
    if isinstance(kind, type) and not get_args(kind):
        return kind.__qualname__
    return kind if isinstance(kind, str) else str(kind).replace("typing.", "")


def fits(given: Any, expected: Any) -> bool:  # noqa: ANN401 - any type forms
    """Check whether a value of one type can be passed where another is expected; `False` only if it certainly cannot.

    A case that this function cannot decide (type arguments, protocols, `NewType`) fits; type checkers check those.
    """
    given, expected = _plain(given), _plain(expected)
    if expected in (Any, object) or given in (Any, expected):
        return True
    if _is_union(given):
        return all(fits(each, expected) for each in get_args(given))
    if _is_union(expected):
        return any(fits(given, each) for each in get_args(expected))
    given, expected = get_origin(given) or given, get_origin(expected) or expected
    try:
        return issubclass(given, expected)
    except TypeError:
        return True


def _plain(kind: Any) -> Any:  # noqa: ANN401 - any type form
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return types.NoneType if kind is None else kind


def _is_union(kind: Any) -> bool:  # noqa: ANN401 - any type form
    return get_origin(kind) in (Union, types.UnionType)
