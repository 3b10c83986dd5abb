"""The watch over the files of a project while `amends dev` runs their code: it reports changes, and loads nothing.

The watch compares the times of the loaded files once a second, and reads a file only when its time has changed. It
knows the modules of the project that are imported, and the file of the settings; a new module therefore counts when
one of these names it. How it can fail: a file that cannot be read counts as unchanged until it can be read again.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from amends.cli.output.remarks import note
from amends.cli.project.load_modules import is_own
from amends.cli.project.settings import Settings
from amends.cli.views.code_changes import SourceCode, changes_line, read_source, read_text

__all__ = ["CodeWatch", "watching_code"]

_LOOK_S = 1.0

_Stamp = tuple[int, int, int]


@dataclass(slots=True)
class _Watched:
    """A loaded file.

    Attributes:
        stamp: Time, size and number of the file when it was last read.
        loaded: Its content when it was loaded.
        reported: Its content when its change was last reported; the loaded one before any report.
    """

    stamp: _Stamp
    loaded: SourceCode
    reported: SourceCode


class CodeWatch:
    """The loaded files of a project.

    Args:
        settings: The settings, whose modules are imported.
    """

    def __init__(self, settings: Settings) -> None:
        self._project_dir = settings.project_dir
        self._watched: dict[Path, _Watched] = {}
        for path in _loaded_files(settings):
            stamp = _stamp(path)
            code = _read(path)
            if stamp is not None and code is not None:
                self._watched[path] = _Watched(stamp, code, code)

    def look(self) -> str | None:
        """Return one line about files that changed since the last call; `None` if there is nothing to report.

        A file is reported when its change begins, and again when definitions come or go.
        """
        found = dict(filter(None, map(self._change, self._watched)))
        return changes_line(found) if found else None

    def _change(self, path: Path) -> tuple[str, tuple[SourceCode, SourceCode]] | None:
        watched = self._watched[path]
        stamp = _stamp(path)
        if stamp is None or stamp == watched.stamp:
            return None
        code = _read(path)
        if code is None:
            return None
        before, watched.stamp = watched.reported, stamp
        watched.reported = code
        changed_already = before.meaning != watched.loaded.meaning
        if code.meaning == watched.loaded.meaning or (changed_already and code.definitions == before.definitions):
            return None
        return str(path.relative_to(self._project_dir)), (watched.loaded, code)


def _loaded_files(settings: Settings) -> Iterator[Path]:
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    for file in sorted(filter(None, files)):
        if file.endswith(".py") and is_own(file, settings.project_dir):
            yield Path(file)
    if settings.config_file is not None:
        yield settings.config_file


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> SourceCode | None:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return read_source(text) if path.suffix == ".py" else read_text(text)


@asynccontextmanager
async def watching_code(settings: Settings, report: Callable[[str], None] = note) -> AsyncIterator[None]:
    """Report changes of the loaded files while the context lasts.

    Args:
        settings: The settings, whose modules are imported.
        report: Called with each line.
    """
    watch = CodeWatch(settings)

    async def looking() -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            if (line := await asyncio.to_thread(watch.look)) is not None:
                report(line)

    task = asyncio.create_task(looking())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=_LOOK_S)
