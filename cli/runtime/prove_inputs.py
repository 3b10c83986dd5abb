"""The arguments of `amends prove`: contracts, aggregates, tables and results, read from the command line.

Every function raises one `InputError` that names the option, before the search begins.
"""

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from amends.aggregates.errors import AmendsError, InputError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.text import shorten
from amends.aggregates.values.error_report import line_of
from amends.aggregates.values.strict_json import parse_json
from amends.cli.runtime.wiring import Project
from amends.sagas.definition.participants import Contract, Participant
from amends.sagas.definition.registry import Registry
from amends.sagas.definition.saga import Saga
from amends.sagas.definition.steps import Step
from amends.sagas.prove.end import Invariant
from amends.sagas.prove.experiment import Contracts
from amends.sagas.prove.runtime.proof import PROOF, Proof
from amends.sagas.prove.terms import combinations_of, terms_of

__all__ = ["MOST_SEARCHES", "imported", "read_contracts", "read_given", "read_invariant", "read_results"]

MOST_SEARCHES = 27
"""The largest number of combinations of contracts that one command explores."""

_ALL = "all"


def read_contracts(saga: Saga[Any], options: Iterable[str], *, matrix: bool) -> Sequence[Contracts]:
    """Return the combinations of contracts to explore.

    Args:
        saga: The saga.
        options: Each `PARTICIPANT=CONTRACT`; several for one participant ask for each of them.
        matrix: Whether to explore every contract of each participant that no option names.

    Raises:
        InputError: An option does not fit, or there are too many combinations.
    """
    participants = sorted({each.participant for each in terms_of(Registry([saga])).values()})
    wanted: dict[Participant | str, list[Contract]] = {}
    for option in options:
        name, _, word = option.rpartition("=")
        if name not in participants:
            raise InputError(
                f"--contract {shorten(option)}: no effect of {saga.name} calls such a participant; write "
                f"PARTICIPANT=CONTRACT; it calls {', '.join(participants) or 'none'}"
            )
        wanted.setdefault(name, []).extend(_contracts(word, option))
    if matrix:
        for name in participants:
            wanted.setdefault(name, list(Contract))
    choices = {name: list(dict.fromkeys(each)) for name, each in wanted.items()}
    count = math.prod(map(len, choices.values()))
    if count > MOST_SEARCHES:
        raise InputError(
            f"the contracts make {count} combinations, and one command explores at most {MOST_SEARCHES}; "
            f"name one contract of some participants: --contract PARTICIPANT=CONTRACT"
        )
    return combinations_of(choices)


def _contracts(word: str, option: str) -> list[Contract]:
    plain = word.strip().lower().replace("-", " ").replace("_", " ")
    if plain == _ALL:
        return list(Contract)
    for contract in Contract:
        if contract.value == plain:
            return [contract]
    known = ", ".join(each.value.replace(" ", "-") for each in Contract)
    raise InputError(f"--contract {shorten(option)}: there is no such contract; use one of {known}, {_ALL}")


def read_given(project: Project, options: Iterable[str]) -> list[object]:
    """Return the aggregates, and statements that insert rows, that exist before the run.

    Args:
        project: The project.
        options: Each `CLASS=JSON`, with the arguments of the aggregate's constructor, or `MODULE:NAME`.

    Raises:
        InputError: A class is unknown, its constructor refuses the arguments, or a name cannot be imported.
    """
    given: list[object] = []
    for option in options:
        name, equals, text = option.partition("=")
        if equals and name.isidentifier():
            given.append(_aggregate(project, name, text, option))
        else:
            value = imported(option, "--given")
            given += value if isinstance(value, list | tuple) else [value]
    return given


def _aggregate(project: Project, name: str, text: str, option: str) -> Aggregate:
    where = f"--given {shorten(option)}"
    classes = {each.__name__: each for each in project.aggregates}
    if name not in classes:
        known = ", ".join(sorted(classes)) or "none"
        raise InputError(f"{where}: the project's modules define no aggregate of that name; they define {known}")
    arguments = parse_json(text, what=where)
    if not isinstance(arguments, dict):
        raise InputError(f'{where}: write the arguments of its constructor as a JSON object, such as {{"id": "1"}}')
    aggregate: Aggregate = _called(lambda: classes[name](**arguments), where)
    return aggregate


def imported(place: str, option: str) -> Any:  # noqa: ANN401 - any value of the user's modules
    """Return the value that `MODULE:NAME` names; call it if it is a function.

    Args:
        place: The module and the name.
        option: The option that the text belongs to, for messages.

    Raises:
        InputError: There is no such module or name, or its code fails.
    """
    where = f"{option} {shorten(place)}"
    value = _named(place, where, form="MODULE:NAME" + (", or CLASS=JSON" if option == "--given" else ""))
    return _called(value, where) if callable(value) and not isinstance(value, type) else value


def read_invariant(place: str) -> Invariant:
    """Return the invariant that `MODULE:FUNCTION` names; a test of `@prove` counts as the function that it decorates.

    Raises:
        InputError: There is no such module or name, its code fails, or it is no function of one argument.
    """
    where = f"--invariant {shorten(place)}"
    value = _named(place, where, form="MODULE:FUNCTION")
    proof = getattr(value, PROOF, None)
    if isinstance(proof, Proof):
        value = proof.bounds["invariant"]
    if not callable(value) or isinstance(value, type):
        raise InputError(f"{where}: this is no function ({shorten(value)}); name one that takes an End and asserts")
    if inspect.iscoroutinefunction(value):
        raise InputError(f"{where}: the search cannot wait for an `async def` function; write it with `def`")
    try:
        inspect.signature(value).bind(None)
    except TypeError as error:
        raise InputError(f"{where}: it must take one argument, the End ({error}); change its parameters") from None
    law: Invariant = value
    return law


def _named(place: str, where: str, *, form: str) -> Any:  # noqa: ANN401 - any value of the user's modules
    module, colon, name = place.partition(":")
    if not colon or not module or not name:
        raise InputError(f"{where}: write {form}")
    return _called(lambda: getattr(importlib.import_module(module), name), where)


def _called(function: Callable[[], Any], where: str) -> Any:  # noqa: ANN401 - as above
    try:
        return function()
    except KeyboardInterrupt:
        raise
    except AmendsError as error:
        raise InputError(f"{where}: {error}") from error
    except BaseException as error:
        raise InputError(f"{where}: {line_of(error)}; correct it there") from error


def read_results(registry: Registry, saga: Saga[Any], options: Sequence[str]) -> dict[Step[Any, Any], object]:
    """Return the results that replace functions of steps.

    Args:
        registry: Reads results.
        saga: The saga.
        options: Each `STEP=JSON`.

    Raises:
        InputError: The saga has no such step, or the JSON is not valid for its result.
    """
    steps = {each.step.definition.name: each.step for each in saga.placed}
    results: dict[Step[Any, Any], object] = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals or name not in steps:
            raise InputError(
                f"--result {shorten(option)}: {saga.name} has no such step; write STEP=JSON; it has {', '.join(steps)}"
            )
        results[steps[name]] = registry.result_codec(name).load_text(text)
    return results
