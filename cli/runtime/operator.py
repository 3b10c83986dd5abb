"""The name of the person who decides: every command that records a decision records this name with it."""

import getpass
from typing import Annotated

import typer

from amends.aggregates.errors import InputError
from amends.aggregates.values.strict_json import clean_text

__all__ = ["ActorOption", "actor_name", "known_actor"]

ActorOption = Annotated[
    str | None,
    typer.Option("--actor", metavar="NAME", help="Name to record with the decision; by default your login name."),
]
"""The option `--actor` of commands that decide; `actor_name` reads it."""

_NOBODY = "unknown"


def actor_name(given: str | None) -> str:
    """Return the name to record with a decision: the value of `--actor`, or else the user's login name.

    Args:
        given: The value of `--actor`; `None` if the user left the option out.

    Raises:
        InputError: The name is empty or "unknown", or it is missing and the system does not know a login name.
    """
    if given is None:
        name = known_actor()
        if name is None:
            raise InputError("cannot determine your user name; pass --actor NAME (it is recorded with the decision)")
        return name
    name = _usable(given)
    if name is None:
        raise InputError(f"--actor {given!r} names nobody; pass your name (it is recorded with the decision)")
    return name


def known_actor() -> str | None:
    """Return the user's login name; `None` if the system does not know one."""
    try:
        return _usable(getpass.getuser())
    except (KeyError, OSError, ImportError):  # a process of a user id without a name, such as in a container
        return None


def _usable(name: str) -> str | None:
    # The command line need not be valid text, and the journal stores nothing else.
    cleaned = clean_text(name.strip())
    return None if cleaned.lower() in {"", _NOBODY} else cleaned
