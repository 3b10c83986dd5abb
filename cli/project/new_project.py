"""The files of the project that `amends init` creates; a test runs them, and every command of their README.

The files lie in `new_project_files`, next to this module. Their names end in `.txt` there, so that no tool takes them
for modules, tests or settings of Amends. Reading fails only if the installed package is incomplete.
"""

from collections.abc import Iterator
from importlib.resources import files

__all__ = ["FILES", "KEPT_IF_PRESENT", "SAGA", "TRY_NEXT"]

SAGA = "book-trip"
"""Name of the saga that the project defines."""

_SUFFIX = ".txt"
# In the order in which `amends init` creates and lists them.
_NAMES = ("amends.toml", "trips.py", "test_trips.py", "README.md", "pyproject.toml", ".gitignore")


def _read(name: str) -> str:
    return files("amends.cli.project").joinpath("new_project_files", name + _SUFFIX).read_text(encoding="utf-8")


def _commands(readme: str) -> Iterator[tuple[str, str]]:
    _, _, block = readme.partition("```sh\n")
    for line in block.partition("```")[0].splitlines():
        command, _, purpose = line.partition("  # ")
        yield command, purpose


FILES = {name: _read(name) for name in _NAMES}
"""Content by file name."""

KEPT_IF_PRESENT = frozenset({"pyproject.toml", ".gitignore"})
"""Files that the project can do without; a directory that has one keeps its own."""

TRY_NEXT = tuple(_commands(FILES["README.md"]))
"""Commands to try in the new project, in the order of its README, each with its purpose."""
