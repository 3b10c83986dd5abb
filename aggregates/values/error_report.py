"""Describe any exception as data, without ever raising.

Theory of operation: an exception of user code comes from outside and may be as hostile as any other value. Its
`__str__` may raise or return no text, its class may hide `__cause__` behind a property, its chain of causes may be a
circle, and its message may be too large to copy. This module therefore reads exceptions through the slots of
`BaseException` only, bounds the amount that it reads, and calls one piece of foreign code: `str(error)`, in one guarded
place.

A report has the classes and the places of the error and of its causes. It keeps the messages separate, so that a log
can leave them out: a message may quote user data; a class and a line of code do not.
"""

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, TracebackType
from typing import Any

from amends.aggregates.text import one_line
from amends.aggregates.values.strict_json import clean_text

__all__ = [
    "NO_MESSAGE",
    "NO_REASON",
    "ErrorLink",
    "ErrorReport",
    "Frame",
    "class_name",
    "describe",
    "is_a",
    "leaves",
    "line_of",
    "lineage",
    "message_of",
    "raised_at",
    "raised_in_amends",
    "reason_of",
    "text_of",
    "traceback_of",
]

NO_MESSAGE = "no message"
"""Stands for the message of an error that has none."""

NO_REASON = "no reason was given"
"""Stands for the reason of a refusal that has none."""

_MESSAGE_CHARS = 2_000
_NAME_CHARS = 200
_LINKS = 8
_LINEAGE = 1_000
_OUTER, _INNER = 2, 4
_OWN = "amends"
_LIBRARY = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
_INSTALLED = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib"))


@dataclass(frozen=True, slots=True)
class Frame:
    """A place in the code that an exception passed through.

    Attributes:
        file: Path of the file.
        line: Number of the line, from 1; 0 if unknown.
        function: Name of the function.
    """

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        end = "/".join(self.file.replace("\\", "/").split("/")[-2:])
        return f"{end}:{self.line} in {self.function}"


@dataclass(frozen=True, slots=True)
class ErrorLink:
    """One exception of a chain.

    Attributes:
        relation: Relation to the exception before it: `raised` for the first, then `caused by`, `while handling` or
            `in the group`.
        error_type: Its class with the module, or without it for classes of Python itself.
        message: Its message, shortened.
        frames: The places that it passed; the last one raised it.
    """

    relation: str
    error_type: str
    message: str
    frames: tuple[Frame, ...]

    def __str__(self) -> str:
        places = ", ".join(str(each) for each in reversed(self.frames))
        return f"{self.relation} {self.error_type}{' at ' if places else ''}{places}"


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """An exception as data.

    Attributes:
        error_type: Name of its class, without the module.
        message: Its message, shortened.
        chain: The exception, its causes and, for a group, its members; eight at most.
    """

    error_type: str
    message: str
    chain: tuple[ErrorLink, ...]

    @property
    def trace(self) -> tuple[str, ...]:
        """Return a line for each exception of the chain: class and places, no message."""
        return tuple(str(each) for each in self.chain)


def describe(error: BaseException) -> ErrorReport:
    """Return the class, the message, the places and the causes of any exception; never raises."""
    chain = tuple(
        ErrorLink(relation, class_name(each, qualified=True), message_of(each), tuple(_frames(each)))
        for relation, each in _chain(error)
    )
    return ErrorReport(class_name(error), chain[0].message, chain)


def line_of(error: BaseException) -> str:
    """Return the class and the message of any exception in one line; never raises."""
    return f"{class_name(error)}: {text_of(error)}"


def text_of(value: object) -> str:
    """Return `str(value)` in one line of bounded length; never raises."""
    return one_line(message_of(value))


def message_of(value: object) -> str:
    """Return `str(value)` as storable text of bounded length; never raises."""
    try:
        # The slice turns an instance of a subclass into a `str`, and avoids copying a huge text.
        text = str.__getitem__(str(value), slice(0, _MESSAGE_CHARS + 1))
    except BaseException as failure:  # noqa: BLE001 - a foreign `__str__` may raise anything
        return f"no message: its __str__ raised {class_name(failure)}"
    return clean_text(text, _MESSAGE_CHARS) if text.strip() else NO_MESSAGE


def reason_of(answer: BaseException) -> str:
    """Return the `reason` of an exception, which a subclass may have forgotten or replaced; never raises."""
    try:
        reason = getattr(answer, "reason", answer)
    except BaseException:  # noqa: BLE001 - a user's property may raise anything
        reason = answer
    text = NO_MESSAGE if reason is None else message_of(reason)
    return NO_REASON if text == NO_MESSAGE else text


def class_name(error: BaseException, *, qualified: bool = False) -> str:
    """Return the name of an exception's class; never raises.

    Args:
        error: The exception.
        qualified: Whether to put the module before the name, except for classes of Python itself.
    """
    cls = type(error)
    name = _slot(type, "__qualname__" if qualified else "__name__", cls)
    module = _slot(type, "__module__", cls) if qualified else None
    shown = name if isinstance(name, str) else "an exception without a name"
    if isinstance(module, str) and module != "builtins":
        shown = f"{module}.{shown}"
    return one_line(clean_text(str.__getitem__(shown, slice(0, None)), _NAME_CHARS))


def is_a(error: BaseException, cls: type[BaseException]) -> bool:
    """Check the real class of an exception, even if its `__class__` claims another; never raises."""
    return type.__subclasscheck__(cls, type(error))


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in a group at any depth, each once; for any other exception, yield only it."""
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if is_a(each, BaseExceptionGroup):
            waiting += reversed(_slot(BaseExceptionGroup, "exceptions", each) or ())
        else:
            yield each


def lineage(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, the members of groups, and all their causes and contexts, each once; never raises."""
    return (each for _, each in _chain(error, _LINEAGE))


def traceback_of(error: BaseException) -> TracebackType | None:
    """Return the traceback of an exception, even if its class redefines the attribute; never raises."""
    trace: TracebackType | None = _slot(BaseException, "__traceback__", error)
    return trace


def raised_at(error: BaseException) -> TracebackType | None:
    """Return the place that raised an exception, the last of its traceback; `None` if it has none; never raises."""
    trace = traceback_of(error)
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def raised_in_amends(error: BaseException) -> bool:
    """Check whether code of Amends raised an exception, and not a statement in the user's code; never raises."""
    place = raised_at(error)
    return place is not None and _is_ours(place)


# ---- reading exceptions by the slots of BaseException


def _slot(cls: type, name: str, value: object) -> Any:  # noqa: ANN401 - a slot may hold any object
    """Return an attribute as `cls` defines it, even if a subclass redefines it; `None` if there is none."""
    try:
        return cls.__dict__[name].__get__(value, type(value))
    except Exception:  # noqa: BLE001 - an attribute that was deleted
        return None


def _chain(error: BaseException, most: int = _LINKS) -> Iterator[tuple[str, BaseException]]:
    """Yield an exception and those that led to it, each once, the nearest first."""
    waiting, seen = [("raised", error)], set[int]()
    while waiting and len(seen) < most:
        relation, each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield relation, each
        if is_a(each, BaseExceptionGroup):
            members = _slot(BaseExceptionGroup, "exceptions", each) or ()
            waiting = [("in the group", member) for member in members[:most]] + waiting
        if (cause := _slot(BaseException, "__cause__", each)) is not None:
            waiting.append(("caused by", cause))
        elif not _slot(BaseException, "__suppress_context__", each):
            context = _slot(BaseException, "__context__", each)
            waiting += [("while handling", context)] if context is not None else []


def _frames(error: BaseException) -> Iterator[Frame]:
    """Yield the first and the last places in users' code and in libraries that an exception passed.

    The outermost one is the function that Amends called. The function leaves out code of Amends and of Python's
    own library, because that shows the path of the call and not the failure.
    """
    found: list[tuple[CodeType, int]] = []
    trace = traceback_of(error)
    while trace is not None:
        code = trace.tb_frame.f_code
        if not _is_ours(trace) and not _is_library(code.co_filename):
            found.append((code, trace.tb_lineno or 0))
        trace = trace.tb_next
    if len(found) > _OUTER + _INNER:
        found = found[:_OUTER] + found[-_INNER:]
    for code, line in found:
        yield Frame(_name(code.co_filename), line, _name(code.co_qualname))


def _is_ours(trace: TracebackType) -> bool:
    module = dict.get(trace.tb_frame.f_globals, "__name__")
    return isinstance(module, str) and module.partition(".")[0] == _OWN


def _is_library(file: str) -> bool:
    return file.startswith(("<frozen ", *_LIBRARY)) and not file.startswith(_INSTALLED)


def _name(text: str) -> str:
    return one_line(clean_text(text, _NAME_CHARS))
