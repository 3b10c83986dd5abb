"""The files of the projects that `amends init` creates; tests run them, and every command of their READMEs.

The files lie in `new_project_files` and `new_pipeline_files`, next to this module. Their names end in `.txt` there, so
that no tool takes them for modules, tests or settings of Amends. Reading fails only if the installed package is
incomplete.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

__all__ = ["FILES", "KEPT_IF_PRESENT", "PIPELINE", "SAGA", "TRY_NEXT", "NewProject", "new_project"]

SAGA = "book-trip"
"""Name of the saga that the project defines."""

PIPELINE = "payments"
"""Name of the pipeline that the project with a pipeline defines."""

_SUFFIX = ".txt"
# In the order in which `amends init` creates and lists them.
_NAMES = {
    "new_project_files": ("amends.toml", "trips.py", "test_trips.py", "README.md", "pyproject.toml", ".gitignore"),
    "new_pipeline_files": (
        "amends.toml",
        "payments.py",
        "test_payments.py",
        "in/payments.jsonl",
        "README.md",
        "pyproject.toml",
        ".gitignore",
    ),
}


class NewProject(NamedTuple):
    """A project to create.

    Attributes:
        files: Content by file name.
        try_next: Commands to try in the new project, in the order of its README, each with its purpose.
    """

    files: Mapping[str, str]
    try_next: Sequence[tuple[str, str]]


@cache
def new_project(*, pipeline: bool) -> NewProject:
    """Return the project with a saga, or the one with a pipeline."""
    folder = "new_pipeline_files" if pipeline else "new_project_files"
    found = {name: _read(folder, name) for name in _NAMES[folder]}
    return NewProject(found, tuple(_commands(found["README.md"])))


def _read(folder: str, name: str) -> str:
    return files("amends.cli.project").joinpath(folder, name + _SUFFIX).read_text(encoding="utf-8")


def _commands(readme: str) -> Iterator[tuple[str, str]]:
    _, _, block = readme.partition("```sh\n")
    for line in block.partition("```")[0].splitlines():
        command, _, purpose = line.partition("  # ")
        yield command, purpose


FILES = new_project(pipeline=False).files
"""Content by file name, of the project with a saga."""

KEPT_IF_PRESENT = frozenset({"pyproject.toml", ".gitignore"})
"""Files that the project can do without; a directory that has one keeps its own."""

TRY_NEXT = new_project(pipeline=False).try_next
"""Commands to try in the project with a saga."""
