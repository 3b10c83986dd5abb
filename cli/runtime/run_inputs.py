"""The inputs of `amends run`: from the command line, standard input or a file; all are valid before any run starts.

Every line of a `.jsonl` file is the input of one run. The run's id consists of the file's name and a hash of the input
(or a field of it). So a second start of the same file finds the runs that exist, even if lines were added or moved: it
finishes an interrupted file and repeats nothing.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from amends.aggregates.errors import InputError
from amends.aggregates.run.fact import TEMPORAL_DRIVER
from amends.aggregates.text import one_line, shorten
from amends.aggregates.values.strict_json import digest
from amends.sagas.definition.registry import Registry
from amends.sagas.definition.saga import Saga
from amends.sagas.engine.start import Start, prepare_start, read_input

__all__ = ["ACTOR", "Job", "read_jobs", "read_value"]

ACTOR = "cli"
"""Actor of runs that the command line starts, as the journal shows it."""

_HASH_CHARS = 12
_NAME_CHARS = 60
_MOST_BYTES = 16_000_000


@dataclass(frozen=True, slots=True)
class Job:
    """One run to start.

    Attributes:
        start: The request, checked.
        place: The place of the input, such as `orders.jsonl:3`; empty for a single input.
    """

    start: Start
    place: str = ""

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self.start.run_id


def read_jobs(
    registry: Registry, saga: Saga[Any], argument: str | None, *, run_id: str | None, id_field: str | None
) -> list[Job]:
    """Read and validate every input.

    Args:
        registry: The registry of the saga.
        saga: The saga.
        argument: JSON, `@file.json`, `@file.jsonl`, or `-` for standard input; `None` for an empty object.
        run_id: Id of the run, or the beginning of all ids of a `.jsonl` file; `None` for a generated id.
        id_field: Field of the input whose value is the id; `None` for none.

    Raises:
        InputError: An input or id is not valid; the message names its line. Nothing was started.
    """
    if argument is not None and argument.startswith("@") and argument.endswith(".jsonl"):
        return _jobs_of_lines(registry, saga, Path(argument[1:]), prefix=run_id, id_field=id_field)
    text = _read(argument)
    value = _validate(registry, saga, text, argument)
    chosen = run_id
    if id_field is not None:
        if run_id is not None:
            raise InputError("--id and --id-field both name the run; pass one of them")
        chosen = _field(text, id_field)
    return [Job(_prepared(registry, saga, value, chosen if chosen is not None else uuid4().hex))]


def read_value(registry: Registry, saga: Saga[Any], argument: str | None) -> object:
    """Read and validate one input.

    Args:
        registry: The registry of the saga.
        saga: The saga.
        argument: JSON, `@file.json`, or `-` for standard input; `None` for an empty object.

    Raises:
        InputError: The input is not valid.
    """
    return _validate(registry, saga, _read(argument), argument)


def _read(argument: str | None) -> str | bytes:
    if argument is None:
        return "{}"
    if argument == "-":
        return _read_stdin()
    return _read_file(Path(argument[1:]), bounded=True) if argument.startswith("@") else argument


def _read_stdin() -> bytes:
    if sys.stdin is None:  # closed by the parent process
        raise InputError("standard input is closed; pipe the input into the command, or write it as the argument")
    try:
        return _bounded(sys.stdin.buffer, "standard input")
    except (OSError, ValueError) as error:
        raise InputError(f"standard input cannot be read ({_reason(error)}); pipe the input into the command") from None


def _validate(registry: Registry, saga: Saga[Any], text: str | bytes, argument: str | None) -> object:
    try:
        return read_input(registry, saga, text)
    except InputError as error:
        if argument is not None and argument not in {"", "-"} and argument[0] not in "@{[" and _names_file(argument):
            raise InputError(f"input {argument!r} is the name of a file; write @{argument} to read it") from None
        if argument is None:
            raise InputError(f"{error} (no input was given)") from None
        raise


def _names_file(argument: str) -> bool:
    """Check whether a file has this name; text that cannot be the name of a file counts as no."""
    try:
        return Path(argument).is_file()
    except (OSError, ValueError):
        return False


def _read_file(path: Path, *, bounded: bool = False) -> bytes:
    shown = f"input file {shorten(str(path))}"
    try:
        with path.open("rb") as file:
            return _bounded(file, shown) if bounded else file.read()
    except (OSError, ValueError) as error:
        raise InputError(f"{shown} cannot be read ({_reason(error)}); name one that you may read") from None


def _bounded(file: BinaryIO, what: str) -> bytes:
    """Read one input, up to a limit: a device or a pipe without an end must not fill the memory."""
    found = file.read(_MOST_BYTES + 1)
    if len(found) > _MOST_BYTES:
        raise InputError(f"{what} has more than {_MOST_BYTES:,} bytes; keep the data elsewhere and pass a reference")
    return found


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or one_line(str(error))


def _jobs_of_lines(
    registry: Registry, saga: Saga[Any], path: Path, *, prefix: str | None, id_field: str | None
) -> list[Job]:
    begin = f"{prefix}-" if prefix is not None else "" if id_field is not None else f"{_name(path)}-"
    jobs: dict[str, Job] = {}
    seen: Counter[str] = Counter()
    for place, line in _lines(path):
        try:
            value = read_input(registry, saga, line)
            if id_field is not None:
                run_id = begin + _field(line, id_field)
            else:
                value_id = _digest(line)
                seen[value_id] += 1
                run_id = f"{begin}{value_id}" + (f"-{seen[value_id]}" if seen[value_id] > 1 else "")
            job = Job(_prepared(registry, saga, value, run_id), place)
        except InputError as error:
            raise InputError(f"{place}: {error}; nothing was started") from None
        if (first := jobs.setdefault(run_id, job)) is not job:
            raise InputError(f"{place}: id {run_id!r} is that of {first.place} already; nothing was started")
    if not jobs:
        raise InputError(f"input file {shorten(str(path))} has no lines; write one input on each")
    return list(jobs.values())


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    for number, line in enumerate(_read_file(path).splitlines(), start=1):
        if line.strip():
            yield f"{path.name}:{number}", line


def _name(path: Path) -> str:
    """Return the beginning of run ids for a file's name."""
    name = "".join(char if char.isascii() and (char.isalnum() or char in "_-") else "-" for char in path.stem)
    return name.lstrip("_-")[:_NAME_CHARS] or "line"


def _digest(line: bytes) -> str:
    """Return a hash of an input that depends neither on the spaces in its line nor on the order of its fields."""
    return digest(json.loads(line))[:_HASH_CHARS]


def _field(text: str | bytes, name: str) -> str:
    value = json.loads(text.removeprefix("\ufeff") if isinstance(text, str) else text)
    found = value.get(name) if isinstance(value, dict) else None
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise InputError(f"--id-field {name}: its value {shorten(found)} is not an id; use a text or a whole number")
    return str(found)


def _prepared(registry: Registry, saga: Saga[Any], value: object, run_id: str) -> Start:
    return prepare_start(registry, saga, value, run_id=run_id, driver=TEMPORAL_DRIVER, actor=ACTOR)
