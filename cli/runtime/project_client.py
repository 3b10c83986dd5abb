"""The public client: that of `amends.sagas`, which can also find its store and its Temporal by a project's settings.

It is defined here because only the command line's layer reads settings.
"""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from amends.cli.project.settings import load_settings
from amends.cli.runtime.wiring import checked_registry, connect_located, find_temporal, load_project, open_store
from amends.sagas.definition.saga import Saga
from amends.sagas.temporal import client

__all__ = ["Client"]


class Client(client.Client):
    """Starts sagas and reads their results.

    Use `Client.from_project` in a project with settings, or `Client.connect` with addresses of your own. A client does
    not drive runs: `amends dev`, `amends worker` or a `Worker` does.

    Args:
        journal: The store.
        temporal: The client of Temporal.
        registry: The sagas that can be started.
        task_queue: Queue of the workers.
        actor: The person or program that starts runs, as the journal shows it.
        eager: Whether a worker runs in this process with the same Temporal client; then it receives new runs at once.
    """

    @classmethod
    async def from_project(
        cls, sagas: Iterable[Saga[Any]] | None = None, *, project: Path | str | None = None, actor: str = "client"
    ) -> Self:
        """Connect to the store and the Temporal of a project, as the commands of `amends` do.

        The settings come from `amends.toml` or `pyproject.toml`, and from the environment. The Temporal is the one that
        Temporal's own configuration names (`TEMPORAL_ADDRESS` and so on), or else the embedded server of a running
        `amends dev`. The call starts no server and no worker; it creates the SQLite file of a new store. If you start
        `amends dev` again on another port, connect again; the setting `embedded_port` keeps the port.

        Args:
            sagas: The sagas that can be started; `None` for those of the project's modules, which the call imports.
            project: The project's directory, whose parents are then not searched; `None` searches from the current
                directory up.
            actor: The person or program that starts runs, as the journal shows it.

        Raises:
            InputError: The settings cannot be read, or one is wrong.
            DefinitionError: A module cannot be imported, or the sagas have a fault.
            UnreachableError: No Temporal is configured and no `amends dev` runs; or Temporal or the store cannot be
                reached.
        """
        settings = await asyncio.to_thread(load_settings, None if project is None else Path(project))
        registry = load_project(settings).registry if sagas is None else checked_registry(settings, sagas)
        target = await asyncio.to_thread(find_temporal, settings)
        temporal = await connect_located(target)
        # In a thread: the database may take its time, and the application goes on meanwhile.
        journal = await asyncio.to_thread(open_store, settings)
        return cls(journal, temporal, registry, task_queue=settings.task_queue, actor=actor)
