"""The import of the user's modules, and the one error that reports a failure.

The project's directory becomes importable as for `python -m`, with two exceptions: a file in it can replace neither a
module of the standard library nor a package that Amends itself needs. A module that raises, exits or prints while it is
imported causes one `DefinitionError` line, or text on stderr, but never a traceback or text in the command's output.
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NoReturn, Protocol, TypeVar

from amends.aggregates.errors import AmendsError, DefinitionError
from amends.aggregates.text import one_line, shorten
from amends.cli.project.needed_packages import needed_packages
from amends.cli.project.settings import CONFIG_FILE, ENV_PREFIX, Settings

__all__ = ["LoadedProject", "Named", "collect", "find", "is_own", "load_modules"]

_MAX_REASON_CHARS = 300


class Named(Protocol):
    """An object that modules define under a name shared by the whole project: a saga or a step."""

    @property
    def name(self) -> str:
        """The object's name in plans, on the command line and in the journal."""


Kind = TypeVar("Kind")
T = TypeVar("T", bound=Named)


@dataclass(frozen=True)
class LoadedProject:
    """The user's modules, imported.

    Attributes:
        project_dir: The directory that they were imported from.
        modules: The configured modules, in the configured order.
        hidden: Files of the project that Python cannot import, because the standard library or a package that Amends
            needs has a module of that name; for `amends doctor`.
    """

    project_dir: Path
    modules: tuple[ModuleType, ...]
    hidden: tuple[Path, ...]

    def find(self, kind: type[Kind]) -> tuple[Kind, ...]:
        """Return the modules' objects of one kind, each once: for steps, whose variants share a name."""
        return tuple(find(self.modules, kind).values())

    def collect(self, kind: type[T]) -> dict[str, T]:
        """Return the modules' objects of one kind, by name: for sagas.

        Raises:
            DefinitionError: Two different objects have the same name.
        """
        return collect(self.modules, kind)


def load_modules(settings: Settings) -> LoadedProject:
    """Import the configured modules.

    The project's directories stay importable for the rest of the process, for imports within the user's functions.
    Output of the modules goes to stderr.

    Raises:
        DefinitionError: No modules are configured; or a module has the name of one that cannot be replaced, is not
            found, or fails during its import: the message names the module, the file and the line.
    """
    if not settings.modules:
        place = settings.config_file or f"{CONFIG_FILE} (there is none in {settings.project_dir} or above)"
        raise DefinitionError(
            f'no modules are configured: add modules = ["your_package.sagas"] to {place}, '
            f"set {ENV_PREFIX}MODULES, or name another directory with --project"
        )
    folders = _folders(settings.project_dir)
    for name in settings.modules:
        if owner := _owner(name.partition(".")[0], folders):
            raise DefinitionError(
                f"module {name!r} cannot be loaded: its first name belongs to {owner}, which Python finds first; "
                f"rename your module and correct modules in {_place(settings)}"
            )
    _make_importable(folders)
    with _stdout_on_stderr():
        modules = tuple(_import(name, settings, folders) for name in settings.modules)
    return LoadedProject(settings.project_dir, modules, _hidden(folders))


def find(modules: Iterable[ModuleType], kind: type[Kind]) -> dict[str, Kind]:
    """Return the objects of one kind among the modules' attributes, each once, in the order of their definition.

    The function does not search containers.

    Returns:
        The objects by the first place where each was found, such as `shop.sagas.place_order`.
    """
    found: dict[str, Kind] = {}
    seen: set[int] = set()
    for module in modules:
        for attribute, value in vars(module).items():
            # The real type counts: a lazy proxy may run any code when asked for its class.
            if issubclass(type(value), kind) and id(value) not in seen:
                seen.add(id(value))
                found[f"{module.__name__}.{attribute}"] = value
    return found


def collect(modules: Iterable[ModuleType], kind: type[T]) -> dict[str, T]:
    """Return the objects of one kind as `find` does, by their own names.

    Raises:
        DefinitionError: Two different objects have the same name.
    """
    found: dict[str, T] = {}
    places: dict[str, str] = {}
    for place, value in find(modules, kind).items():
        if value.name in found:
            raise DefinitionError(
                f"{kind.__name__.lower()} name {value.name!r} is used twice, "
                f"by {places[value.name]} and by {place}; give each its own"
            )
        found[value.name], places[value.name] = value, place
    return found


# ---- Where modules come from


def _folders(project_dir: Path) -> tuple[Path, ...]:
    source = project_dir / "src"
    # A src/ that is a package is imported as such; its content must not appear under a second name as well.
    return (project_dir, source) if source.is_dir() and not (source / "__init__.py").exists() else (project_dir,)


def _make_importable(folders: Sequence[Path]) -> None:
    """Place the folders after the standard library and before installed packages, wherever they were before."""
    ours = {os.path.realpath(folder) for folder in folders}
    # The list is changed in place, because other code holds it. An empty entry is the current directory, which Python
    # resolves at every import.
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) not in ours]
    last = max((at for at, entry in enumerate(sys.path) if _is_stdlib(entry)), default=len(sys.path) - 1)
    sys.path[last + 1 : last + 1] = [str(folder) for folder in folders]
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _OurPackages)]
    sys.meta_path.insert(0, _OurPackages(folders))
    importlib.invalidate_caches()


def _is_stdlib(entry: str) -> bool:
    library = Path(os.__file__).parent
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    extensions = Path(sys.base_exec_prefix, sys.platlibdir, version, "lib-dynload")
    return Path(entry) in {library, library / "lib-dynload", extensions, Path(sys.base_prefix, "DLLs")}


class _OurPackages(importlib.abc.MetaPathFinder):
    """An import finder that takes the packages Amends needs from everywhere but the project.

    Amends may import them after the user's modules, and a project often has an `alembic/` of its own.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [str(folder) for folder in folders]

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        # The reading of metadata imports modules of the standard library, which no project can replace.
        if path is not None or fullname in sys.stdlib_module_names or not self._is_in_project(fullname):
            return None
        elsewhere = [entry for entry in sys.path if entry not in self._folders]
        spec = importlib.machinery.PathFinder.find_spec(fullname, elsewhere, target)
        return spec if spec is not None and fullname in needed_packages() else None

    def _is_in_project(self, name: str) -> bool:
        return importlib.machinery.PathFinder.find_spec(name, self._folders) is not None


def _owner(top: str, folders: Sequence[Path]) -> str | None:
    """Return the owner of a top-level name, or None if the name is free for the project."""
    if top in sys.stdlib_module_names or top == "__main__":
        return "a module of Python's standard library"
    needed = top == "amends" or _OurPackages(folders).find_spec(top, None)
    return "a package that Amends itself needs" if needed else None


def _hidden(folders: Sequence[Path]) -> tuple[Path, ...]:
    files = [path for folder in folders for path in folder.iterdir()]
    modules = [path for path in files if path.suffix == ".py" or (path / "__init__.py").exists()]
    return tuple(sorted(path for path in modules if path.stem != "__main__" and _owner(path.stem, folders)))


def _place(settings: Settings) -> str:
    variable = f"{ENV_PREFIX}MODULES"
    return variable if os.environ.get(variable) else str(settings.config_file)


# ---- Importing


@contextlib.contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    """Send stdout to stderr, for output of Python, of C and of child processes."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            # Either of them may be closed or missing: then there is no descriptor to keep clean.
            original = sys.stdout
            original.flush()
            out, err = 1, 2
            saved = os.dup(out)
            stack.callback(os.close, saved)
            os.dup2(err, out)
            stack.callback(os.dup2, saved, out)
            # Output that was written past the redirection below is still in its buffer when the modules are done.
            stack.callback(original.flush)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _import(name: str, settings: Settings, folders: Sequence[Path]) -> ModuleType:
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - also SystemExit, and the BaseExceptions of test tools
        _refuse(name, error, settings, folders)


def _refuse(name: str, error: BaseException, settings: Settings, folders: Sequence[Path]) -> NoReturn:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    if isinstance(error, ModuleNotFoundError) and not frames:
        raise DefinitionError(
            f"module {name!r} was not found ({_reason(error)}), neither in {' or '.join(map(str, folders))} "
            f"nor among the installed packages; correct modules in {_place(settings)}"
        ) from error
    # The innermost line of the project; a line of an installed package only if the traceback has none of the project.
    own = [frame for frame in frames if _is_within(frame.filename, folders)] or frames
    place = f"{own[-1].filename}:{own[-1].lineno}: " if own else ""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        place = f"{error.filename}:{error.lineno}: " if error.lineno else f"{error.filename}: "
    raise DefinitionError(f"module {name!r} cannot be imported: {place}{_explain(error, folders)}") from error


def _explain(error: BaseException, folders: Sequence[Path]) -> str:
    """Return the error's message: the failure and its remedy."""
    reason = f"{type(error).__name__}: {_reason(error)}".removesuffix(": ")
    match error:
        case AmendsError():
            return _reason(error)
        case SystemExit():
            return f"it exits with sys.exit({shorten(error.code)}); move that below: if __name__ == '__main__':"
        case SyntaxError():
            return f"{type(error).__name__}: {one_line(error.msg or '')}; correct it there"
        case ImportError():
            top = (error.name or "").partition(".")[0]
            for path in _hidden(folders):
                if path.stem == top:
                    return f"{reason}; rename {path}: another module of that name comes first"
            return f"{reason}; correct the import, or install what it needs into {sys.prefix}"
        case _:
            return f"{reason}; a module must be importable without that"


def _reason(error: BaseException) -> str:
    try:
        text = one_line(str(error))
    except Exception:  # noqa: BLE001 - a user's exception may fail to describe itself
        return "its message cannot be shown"
    return text if len(text) <= _MAX_REASON_CHARS else f"{text[:_MAX_REASON_CHARS]}..."


def _is_users(filename: str) -> bool:
    """Check whether a frame belongs neither to Amends nor to Python's import system."""
    return not filename.startswith("<frozen importlib") and filename not in {__file__, importlib.__file__}


def is_own(filename: str, project_dir: Path) -> bool:
    """Check whether a file belongs to the project itself, and not to a package that is installed in its folder."""
    return _is_within(filename, (project_dir,))


def _is_within(filename: str, folders: Sequence[Path]) -> bool:
    path = Path(filename)
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return not installed and any(path.is_relative_to(folder) for folder in folders)
