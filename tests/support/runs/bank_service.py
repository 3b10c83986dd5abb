"""The bank of the examples as a service."""

import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from bounds import HANG_S

sys.path.append(str(Path(__file__).resolve().parents[3] / "examples" / "orders"))
from services.process import ServiceProcess

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
Json = dict[str, Any]
# One client, since creating one is slow; it keeps no connection, as services die between calls.
HTTP = httpx.Client(timeout=HANG_S, limits=httpx.Limits(max_keepalive_connections=0))


def bank_at(data: Path, **opened: str) -> ServiceProcess:
    """Return a bank with these accounts, not started yet."""
    options = [word for name, amount in opened.items() for word in ("--open", f"{name}={amount}")]
    return ServiceProcess("bank", data, *options, project=EXAMPLES / "transfer")


def post(
    service: ServiceProcess, op: str, key: str | None, /, fault: str | None = None, **body: object
) -> httpx.Response:
    """Call an operation."""
    headers = {name: value for name, value in (("Idempotency-Key", key), ("Fault", fault)) if value is not None}
    return HTTP.post(f"{service.base_url}/{op}", json=body, headers=headers)


def get(service: ServiceProcess, path: str) -> Any:  # noqa: ANN401 - JSON
    """Read a page."""
    return HTTP.get(f"{service.base_url}/{path}", timeout=HANG_S).json()


def found(service: ServiceProcess, key: str) -> httpx.Response:
    """Probe a key."""
    return HTTP.get(f"{service.base_url}/operations/{quote(key, safe='')}")


def effects(service: ServiceProcess, account: str) -> list[Json]:
    """Return the bank's effects on one account, from its log."""
    return [line for line in get(service, "log") if line["effect"].get("account") == account]
