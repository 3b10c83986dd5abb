"""The configured store and other paths of a project, independent of the current directory."""

import os
from pathlib import Path

from amends.aggregates.store_url import STORE_FORMS, check_store_url

__all__ = ["absolute", "resolve_store_url"]


def resolve_store_url(url: str, project_dir: Path) -> str:
    """Check a store URL and return it independent of the current directory.

    Raises:
        ValueError: The URL names no store that outlives a command; the message holds neither the URL nor a part of it.
    """
    parsed = check_store_url(url)
    if not parsed.scheme.startswith("sqlite"):
        return "postgresql+psycopg" + url.removeprefix(parsed.scheme)
    if parsed.path in {"", ":memory:"}:
        raise ValueError(f"a store in memory would be lost with the command that opened it; {STORE_FORMS}")
    return f"sqlite:///{absolute(parsed.path, project_dir)}"


def absolute(path: str, project_dir: Path) -> Path:
    """Return a path that is independent of the current directory.

    Raises:
        ValueError: The path is not printable, or begins with `~`.
    """
    if not path.strip() or not path.isprintable():
        raise ValueError("it is not a path; write one that can be printed")
    if path.startswith("~"):
        raise ValueError("'~' is not expanded here; write the whole path")
    return Path(os.path.normpath(project_dir / path))
