"""The ports of an embedded server, on loopback."""

import socket
from contextlib import suppress

from amends.aggregates.errors import UnreachableError
from amends.sagas.temporal.server.server_record import HOST, ServerRecord

__all__ = ["answers", "choose_ports", "free_port"]

# The messages name the settings as well, because not every command that starts a server has these options.
_PORT = "--port of amends dev, or the setting embedded_port (AMENDS_EMBEDDED_PORT)"
_UI_PORT = "--ui-port of amends dev, or the setting ui_port (AMENDS_UI_PORT)"


def answers(port: int) -> bool:
    """Check whether a program listens on a port."""
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def choose_ports(port: int | None, ui_port: int | None, last: ServerRecord | None) -> tuple[int, int]:
    """Return the requested ports, else those of a lost server, else free ones."""
    if last is None or {port, ui_port} & {last.port, last.ui_port}:
        return _port(port, None, _PORT), _port(ui_port, None, _UI_PORT)
    return _port(port, last.port, _PORT), _port(ui_port, last.ui_port, _UI_PORT)


def _port(wanted: int | None, last: int | None, names: str) -> int:
    if wanted is not None and not _is_free(wanted):
        raise UnreachableError(f"port {wanted} is taken; name another one with {names}")
    if wanted is None and last is not None and _is_free(last):
        return last
    return wanted or free_port()


def _is_free(port: int) -> bool:
    with suppress(OSError, OverflowError), socket.create_server((HOST, port)):
        return True
    return False


def free_port() -> int:
    """Return a free port on loopback that no other search for a free port returns for a minute.

    A connection that was closed from the port's side (`TIME_WAIT`) reserves it: the kernel does not assign the port,
    but a program that names it can listen on it.
    """
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        with socket.create_connection((HOST, port)) as caller:
            listener.accept()[0].close()
            caller.recv(1)
    return port
