"""The bank of the examples as a service, calls of it, and fixtures, which a module of tests names as its own."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
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


@pytest.fixture(scope="module")
def only_bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Yield one bank for all tests, as starting one is slow."""
    with bank_at(tmp_path_factory.mktemp("bank"), rich="1000.00", poor="5.00") as service:
        yield service


@pytest.fixture
def bank(only_bank: ServiceProcess) -> ServiceProcess:
    """Return the bank, running again if the previous test stopped it; each test uses accounts and keys of its own."""
    process = only_bank._process
    if process is None or process.poll() is not None:
        only_bank.kill()
        only_bank.start()
    return only_bank
