"""The parts that the suite runs against: present, real, and separate for each test."""

import psycopg
import pytest
from sqlalchemy import create_engine, inspect, text
from temporalio.client import Client


@pytest.mark.parametrize("turn", [1, 2])
def test_every_test_gets_an_empty_store(store_url: str, turn: int) -> None:
    """A table created by one test is never visible to another, on either database."""
    engine = create_engine(store_url)
    try:
        assert inspect(engine).get_table_names() == []
        with engine.begin() as connection:
            connection.execute(text(f"CREATE TABLE left_by_{turn} (x INTEGER)"))
        assert inspect(engine).get_table_names() == [f"left_by_{turn}"]
    finally:
        engine.dispose()


def test_a_database_is_emptied_although_connections_are_open(postgres_url: str) -> None:
    """A test that leaves a connection open does not make the clean-up hang or fail."""
    open_connection = psycopg.connect(postgres_url.replace("+psycopg", ""))
    assert open_connection.execute("SELECT 1").fetchone() == (1,)


async def test_temporal_is_a_real_server(temporal_address: str) -> None:
    """The server answers with the version of a real Temporal server, in the namespace `default`."""
    client = await Client.connect(temporal_address)
    assert await client.service_client.check_health()
    assert [run async for run in client.list_workflows("WorkflowType = 'none'")] == []
