"""Fixtures of a participant with an Inbox; a module of tests names them as its own: `service = fixtures.service`."""

from collections.abc import Iterator

import pytest

from aggregate_parts.inbox_service import Service, engine_at


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return one database of each kind for all tests, as creating one is slow; it is not one of the store's."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('inbox') / 'service.db'}"
    server: str = request.getfixturevalue("postgres_server")
    return server.replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture
def service(url: str) -> Iterator[Service]:
    """Yield a participant with empty tables, once on each database."""
    service = Service(engine_at(url))
    yield service
    service.inbox.table.metadata.drop_all(service.engine)
    service.engine.dispose()
