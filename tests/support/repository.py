"""The list of the repository's files, and the module names of those that are installed."""

import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAYERS = ("aggregates", "compensations", "sagas", "pipelines", "reconciler", "cli")
FACADE = "src/amends/"


@cache
def repository_files() -> tuple[Path, ...]:
    """List every file that is or would be tracked, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    found = sorted({Path(name) for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()})
    assert found, "git lists no files"
    return tuple(found)


def python_files() -> list[Path]:
    """List every Python file of the repository."""
    return [path for path in repository_files() if path.suffix == ".py"]


def package_files() -> list[Path]:
    """List the Python files that are installed."""
    return [path for path in python_files() if path.parts[0] in LAYERS or str(path).startswith(FACADE)]


def shipped_files() -> list[Path]:
    """List every file that is installed: the Python files, and the others that lie next to them."""
    return [path for path in repository_files() if path.parts[0] in LAYERS or str(path).startswith(FACADE)]


def is_facade(path: Path) -> bool:
    """Return whether the file belongs to the facade, which imports all layers and so is as impure as they are."""
    return str(path).startswith(FACADE)


def module_name(path: Path) -> str:
    """Return the name under which the module is imported."""
    inner = path.relative_to(FACADE) if is_facade(path) else path
    return ".".join(["amends", *(part for part in inner.with_suffix("").parts if part != "__init__")])


def over(paths: Callable[[], Sequence[Path]]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Return a decorator that turns a check of one file into a test of all of them, whose failure names each fault.

    A test for each file and property would spend most of its time on being a test.
    """

    def decorated(check: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            faults = []
            for path in paths():
                try:
                    check(path)
                except AssertionError as error:
                    faults.append(str(error))
            assert not faults, "\n".join(faults)

        test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
        return test

    return decorated
