"""The addresses of an embedded server, as its data directory keeps them for all users."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from amends.aggregates.values.strict_json import ascii_json

__all__ = ["HOST", "ServerRecord", "read_record", "write_record"]

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """The addresses of an embedded server, as `server.json` holds them.

    Attributes:
        pid: The id of the server's process.
        port: Port of its gRPC interface, on loopback.
        ui_port: Port of its web pages, on loopback.
    """

    pid: int
    port: int
    ui_port: int

    @property
    def address(self) -> str:
        """The address for clients."""
        return f"{HOST}:{self.port}"

    @property
    def ui_url(self) -> str:
        """The address of the web pages, for people."""
        return f"http://{HOST}:{self.ui_port}"


def read_record(data_dir: Path) -> ServerRecord | None:
    """Read the record of a data directory; `None` if there is none that can be read."""
    try:
        read = json.loads((data_dir / "server.json").read_text())
        return ServerRecord(int(read["pid"]), int(read["port"]), int(read["ui_port"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(data_dir: Path, record: ServerRecord) -> None:
    """Write the record of a data directory."""
    fresh = data_dir / "server.json.new"
    fresh.write_text(ascii_json(asdict(record)))
    fresh.chmod(0o600)
    fresh.replace(data_dir / "server.json")
