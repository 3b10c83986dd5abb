"""A relay names the topics that it publishes; a wrong argument is one clear error when the module is loaded."""

from collections.abc import Callable, Mapping, Sequence

import pytest

from amends import DefinitionError
from amends.pipelines.definition.access import Access
from amends.pipelines.definition.relays import Relay, RunRelay, check_relays
from amends.pipelines.definition.sinks import JsonLinesSink, KafkaSink, NatsSink

SINK = JsonLinesSink("out")
HIDDEN = "hidden"


@pytest.mark.parametrize(
    ("topics", "names", "destination"),
    [
        (None, None, "stock.changed"),
        (["stock.changed"], frozenset({"stock.changed"}), "stock.changed"),
        ({"stock.changed": "STOCK"}, frozenset({"stock.changed"}), "STOCK"),
    ],
)
def test_a_relay_knows_its_topics_and_the_name_of_each_at_the_destination(
    topics: Sequence[str] | Mapping[str, str] | None, names: frozenset[str] | None, destination: str
) -> None:
    """Topics may be all, some, or some under another name."""
    relay = Relay("stock", NatsSink(), topics=topics)
    assert relay.topics == names
    assert relay.destination("stock.changed") == destination


@pytest.mark.parametrize("topics", ["stock", [], {}, [""], [7], {"stock": ""}])
def test_a_relay_refuses_topics_that_are_no_names(topics: object) -> None:
    """Each wrong value of `topics` is an error that names the relay."""
    with pytest.raises(DefinitionError, match=r"^relay 'stock'"):
        Relay("stock", SINK, topics=topics)  # type: ignore[arg-type]


def test_a_relay_refuses_a_value_that_is_no_sink() -> None:
    """A path is not a sink, and the error names the sinks."""
    with pytest.raises(DefinitionError, match="str is no sink; use KafkaSink, NatsSink or JsonLinesSink"):
        Relay("stock", "out")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [(["a", "b"], ["b", "c"], "'b'"), (None, ["c"], "'c'"), (["a"], None, "'a'"), (None, None, "all topics")],
)
def test_two_relays_never_publish_one_topic(one: list[str] | None, other: list[str] | None, shared: str) -> None:
    """A message leaves the outbox when it is published, so the second relay would miss it."""
    with pytest.raises(DefinitionError, match=f"both publish {shared};"):
        check_relays([Relay("one", SINK, topics=one), Relay("other", SINK, topics=other)])


def test_relays_of_different_topics_live_together() -> None:
    """No topic is published twice, so all are valid."""
    check_relays(
        [Relay("one", SINK, topics=["a"]), Relay("other", SINK, topics=["b"]), Relay("last", SINK, topics=["c"])]
    )


def test_access_shows_no_secret() -> None:
    """Neither password, token nor the password of a key is a part of the text."""
    access = Access(username="u", password=HIDDEN, token=HIDDEN, key_password=HIDDEN)
    assert HIDDEN not in repr(access)
    assert not access.encrypted
    assert Access(ca_file="ca.pem").encrypted


@pytest.mark.parametrize(
    ("sink", "message"),
    [
        (lambda: NatsSink("nats://user:hidden@host:4222"), "NatsSink: servers has a login"),
        (lambda: KafkaSink("user:hidden@host:9092"), "KafkaSink: servers has a login"),
        (lambda: KafkaSink("host"), "KafkaSink: servers has 'host'; use one or more addresses"),
        (lambda: JsonLinesSink(""), "JsonLinesSink: folder is ''; use a path"),
    ],
)
def test_a_sink_refuses_addresses_that_are_wrong_or_have_a_login(sink: Callable[[], object], message: str) -> None:
    """As a source does; the message quotes no password."""
    with pytest.raises(DefinitionError, match=message) as refused:
        sink()
    assert HIDDEN not in str(refused.value)


@pytest.mark.parametrize(
    ("sagas", "message"), [([], "publishes no saga"), ("one", r"write sagas=\['one'\]"), ([7], "7 is no saga")]
)
def test_a_relay_of_closed_runs_refuses_wrong_sagas(sagas: object, message: str) -> None:
    """Each wrong value is an error that names the relay."""
    with pytest.raises(DefinitionError, match=message):
        RunRelay("results", SINK, topic="results", sagas=sagas)  # type: ignore[arg-type]


def test_a_relay_of_closed_runs_lives_with_a_relay_of_all_topics() -> None:
    """It publishes nothing of the outbox, whatever its topic is called."""
    check_relays([Relay("all", SINK), RunRelay("results", SINK, topic="a"), RunRelay("more", SINK, topic="a")])
