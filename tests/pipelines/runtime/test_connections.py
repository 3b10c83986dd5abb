"""Each description of a source or sink has its adapter, and a missing client is one clear line."""

import sys
from pathlib import Path

import pytest

from amends import DefinitionError
from amends.pipelines.definition.access import Access
from amends.pipelines.definition.sinks import JsonLinesSink, KafkaSink, NatsSink, SinkDescription
from amends.pipelines.definition.sources import JsonLinesSource, KafkaSource, NatsSource, Source, StoreSource
from amends.pipelines.runtime.connections import connect_sink, connect_source


@pytest.mark.parametrize(
    "source",
    [KafkaSource("t"), NatsSource("S"), JsonLinesSource("in/*.jsonl"), StoreSource("sqlite:///other.db", "t")],
    ids=lambda source: type(source).__name__,
)
async def test_each_source_has_an_adapter(source: Source, tmp_path: Path) -> None:
    """The connection is created without a server, and can be closed."""
    await connect_source("p", source, Access(), tmp_path).close()


@pytest.mark.parametrize("sink", [KafkaSink(), NatsSink(), JsonLinesSink("out")], ids=lambda sink: type(sink).__name__)
async def test_each_sink_has_an_adapter(sink: SinkDescription, tmp_path: Path) -> None:
    """The connection is created without a server, and can be closed."""
    await connect_sink("r", sink, Access(), tmp_path).close()


def test_a_missing_client_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The line names the pipeline or relay, and the command that installs the client."""
    for module in [name for name in sys.modules if name.startswith(("nats", "amends.pipelines.nats"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [_NoNats(), *sys.meta_path])
    with pytest.raises(DefinitionError, match=r"pipeline 'p' needs .*pip install 'amends\[nats\]'"):
        connect_source("p", NatsSource("S"), Access(), tmp_path)
    with pytest.raises(DefinitionError, match=r"relay 'r' needs .*pip install 'amends\[nats\]'"):
        connect_sink("r", NatsSink(), Access(), tmp_path)


class _NoNats:
    """Finds no client of NATS."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:  # noqa: ARG002 - as Python calls it
        if name.partition(".")[0] == "nats":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
