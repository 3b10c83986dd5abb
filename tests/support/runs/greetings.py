"""A project with a saga that greets, for tests that use it from this process."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import CommandProject
from reading_shop import as_it_was

MODULE = """
from pydantic import BaseModel

from amends import Call, Saga, effect


class Order(BaseModel):
    name: str


@effect(read_only=True)
async def greet(order: Order, call: Call) -> str:
    return f"hello {order.name}"


greeting = Saga("greeting", Order, greet)
"""


@contextmanager
def greeting_project(folder: Path, monkeypatch: pytest.MonkeyPatch, settings: str = "") -> Iterator[CommandProject]:
    """Yield the project, with its environment in this process; forget its module afterwards.

    Args:
        folder: The project's directory.
        monkeypatch: The fixture that restores the environment.
        settings: More lines of `amends.toml`.
    """
    project = CommandProject(folder)
    project.write("amends.toml", f'modules = ["greetings"]\n{settings}')
    project.write("greetings.py", MODULE)
    with as_it_was():
        for name, value in project.environment.items():
            monkeypatch.setenv(name, value)
        try:
            yield project
        finally:
            sys.modules.pop("greetings", None)
