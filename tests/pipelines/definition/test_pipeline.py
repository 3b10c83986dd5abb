"""Test the definition of pipelines: every wrong argument is one clear line when modules are loaded."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from amends.aggregates.errors import DefinitionError, NotFoundError
from amends.aggregates.journal import StepWork
from amends.pipelines.definition.bounds import Bounds
from amends.pipelines.definition.declaration import declaration_of
from amends.pipelines.definition.pipeline import Handles, Header, Pipeline, Starts
from amends.pipelines.definition.registry import PipelineRegistry
from amends.pipelines.definition.relays import Relay
from amends.pipelines.definition.sinks import KafkaSink
from amends.pipelines.definition.sources import JsonLinesSource, KafkaSource, NatsSource, StoreSource
from amends.pipelines.source import RawMessage
from amends.sagas.definition.context import Done, UnitOfWork
from amends.sagas.definition.decorators import transaction
from amends.sagas.definition.saga import Saga

SOURCE = KafkaSource("orders")


class Order(BaseModel):
    """The input of the saga."""

    order_id: str


class OrderPlaced(BaseModel):
    """A message."""

    order_id: str
    customer: str = "ann"


def id_of(message: OrderPlaced) -> str:
    """Return the id of a message."""
    return message.order_id


def customer_of(message: OrderPlaced) -> str:
    """Return the key of a message."""
    return message.customer


def number_of(_: OrderPlaced) -> int:
    """Return a number."""
    return 1


def to_order(message: OrderPlaced) -> Order:
    """Return the input of the saga."""
    return Order(order_id=message.order_id)


def recount(message: OrderPlaced, uow: StepWork) -> None:
    """Handle a message."""


def with_context(message: OrderPlaced, uow: UnitOfWork) -> None:
    """Handle a message with the context of a step."""


def of_order(order: Order) -> str:
    """Return the id of another model."""
    return order.order_id


def unannotated(message):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - a user's function without types
    """Return the id of a message."""
    return message.order_id


async def id_later(message: OrderPlaced) -> str:
    """Return the id of a message."""
    return message.order_id


def without() -> str:
    """Return an id of nothing."""
    return ""


@transaction
def reserve(order: Order, uow: UnitOfWork) -> None:
    """Do nothing."""


@reserve.compensation
def release(done: Done[Order, None], uow: UnitOfWork) -> None:
    """Do nothing."""


place_order = Saga("place-order", Order, reserve)


def orders(name: Any = "orders", source: Any = SOURCE, model: Any = OrderPlaced, **changes: Any) -> Pipeline[Any]:  # noqa: ANN401
    """Define a pipeline, with any arguments."""
    return Pipeline(name, source, model, **{"id": id_of, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "pipeline name ''"),
        ({"name": "a/b"}, "pipeline name 'a/b'"),
        ({"source": "orders"}, "its source is 'orders'; use one of KafkaSource, NatsSource"),
        ({"model": dict}, "its model is 'dict'; use a class that extends pydantic.BaseModel"),
        ({"model": BaseModel}, "its model is 'BaseModel'"),
        ({"id": None}, r"id is None; use a function that is written with def or Header\('name'\)"),
        ({"id": "order_id"}, "id is 'order_id'; use a function"),
        ({"id": lambda m: m.order_id}, "id is a lambda; use a function that is written with def"),
        ({"id": partial(id_of)}, "id is an object of 'partial'"),
        ({"id": id_later}, "id: 'id_later' is async"),
        ({"id": without}, "id: takes nothing, but Amends calls it with 1 argument"),
        ({"id": of_order}, "'of_order' takes Order, but Amends calls it with OrderPlaced; correct its annotation"),
        ({"id": number_of}, "'number_of' returns int; return str"),
        ({"key": number_of}, "key: 'number_of' returns int; return str"),
        ({"key": "customer"}, "key is 'customer'"),
        ({"decode": id_of}, "'id_of' takes OrderPlaced, but Amends calls it with RawMessage"),
        ({"sequence": number_of}, "sequence counts the messages of each key; set key, too"),
        ({"sequence": customer_of, "key": customer_of}, "'customer_of' returns str; return int"),
        ({"remember": 7}, "remember is 7; use a timedelta above 0 up to ten years"),
        ({"remember": timedelta(0)}, "remember is datetime.timedelta"),
        ({"when_busy": "drop"}, "when_busy is 'drop'; use 'wait' or 'defer'"),
        ({"max_open_runs": 0}, "max_open_runs is 0; use a whole number from 1"),
        ({"weight": True}, "weight is True; use a whole number from 1 to 1000"),
        ({"bounds": 5}, r"bounds is 5; use Bounds\(...\)"),
    ],
)
def test_a_wrong_argument_is_one_line(changes: dict[str, Any], message: str) -> None:
    """Every argument is checked when the pipeline is defined, and the message has no line break."""
    with pytest.raises(DefinitionError, match=message) as raised:
        orders(**changes)
    assert str(raised.value).isprintable()


def test_functions_need_no_annotations() -> None:
    """A function without types is accepted, because the model checks the messages."""
    assert orders(id=unannotated).id is unannotated


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Header(""), "header name ''"),
        (lambda: Bounds(batch=0), "bound batch is 0"),
        (lambda: Bounds(max_held=1.5), "bound max_held is 1.5"),  # type: ignore[arg-type]
        (lambda: KafkaSource(""), "KafkaSource: topic is ''"),
        (lambda: KafkaSource("t", servers="broker"), "servers has 'broker'; use one or more addresses"),
        (lambda: KafkaSource("t", servers="a:1,"), "servers has ''"),
        (lambda: NatsSource("S", subject=""), "NatsSource: subject is ''"),
        (lambda: NatsSource("S", servers="nats://ann:secret@host:4222"), "servers has a login; put it into"),
        (lambda: JsonLinesSource("a\nb"), "JsonLinesSource: pattern is 'a"),
        (lambda: StoreSource("events.db", "t"), "StoreSource: url is not a URL"),
        (lambda: StoreSource("sqlite:///e.db", ""), "StoreSource: topic is ''"),
    ],
)
def test_a_wrong_description_is_one_line(make: Callable[[], object], message: str) -> None:
    """Sources, headers and bounds are checked when they are created."""
    with pytest.raises(DefinitionError, match=message) as raised:
        make()
    assert "secret" not in str(raised.value)


def test_descriptions_show_no_password() -> None:
    """The text of a source names its place without the password of a store."""
    store = StoreSource("postgresql://shop:secret@db/shop", "stock")
    assert "secret" not in f"{store} {store!r}"
    assert str(KafkaSource("orders", servers="a:1,b:2")) == "topic 'orders' of Kafka at a:1,b:2"


def test_a_pipeline_has_one_function() -> None:
    """A second function is refused, and a pipeline without any says how to add one."""
    pipeline = orders()
    with pytest.raises(DefinitionError, match=r"decorate a function with @orders.handles or @orders.starts\(saga\)"):
        _ = pipeline.work
    pipeline.handles(notify_duplicates=True)(recount)
    assert pipeline.work == Handles(recount, notify_duplicates=True)
    with pytest.raises(DefinitionError, match="has a function already"):
        pipeline.starts(place_order)(to_order)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (recount, "takes message, uow, but Amends calls it with 1 argument"),
        (of_order, "'of_order' takes Order, but the messages are OrderPlaced"),
        (id_of, "'id_of' returns str, but the input of saga 'place-order' is Order"),
        (unannotated, "annotate 'message'"),
        (len, "@orders.starts is an object of 'builtin_function_or_method'"),
    ],
)
def test_a_function_that_starts_runs_maps_the_message_to_the_input(function: Any, message: str) -> None:  # noqa: ANN401
    """The types of the function must be those of the message and of the saga's input."""
    with pytest.raises(DefinitionError, match=message):
        orders().starts(place_order)(function)


def test_only_a_saga_can_be_started() -> None:
    """A decorator that was written without its saga is refused at once."""
    with pytest.raises(DefinitionError, match=r"pass a saga, such as @orders.starts\(place_order\)"):
        orders().starts(to_order)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (id_of, "takes message, but Amends calls it with 2 arguments"),
        (id_later, "'id_later' is async"),
        (partial(recount), "@orders.handles is an object of 'partial'"),
        (with_context, "is annotated UnitOfWork, but a message has no run; annotate it StepWork"),
    ],
)
def test_a_handler_takes_a_message_and_a_unit_of_work(function: Any, message: str) -> None:  # noqa: ANN401
    """A handler with other parameters is refused."""
    with pytest.raises(DefinitionError, match=message):
        orders().handles(function)


def test_a_bound_of_open_runs_needs_runs() -> None:
    """`max_open_runs` is refused for a pipeline that starts no runs."""
    with pytest.raises(DefinitionError, match="max_open_runs is for pipelines that start runs"):
        orders(max_open_runs=5).handles(recount)


def test_settings_replace_values_of_a_copy() -> None:
    """A configured pipeline has other values and the same effect, and the definition stays as it was."""
    pipeline = orders()
    pipeline.starts(place_order)(to_order)
    changed = pipeline.configured(source=KafkaSource("orders", servers="b:1"), bounds=Bounds(batch=5), max_open_runs=9)
    assert (changed.bounds.batch, changed.max_open_runs, changed.weight) == (5, 9, 1)
    assert (pipeline.bounds, pipeline.max_open_runs, pipeline.source) == (Bounds(), None, SOURCE)
    assert changed.work == pipeline.work == Starts(place_order, to_order)
    assert declaration_of(changed) == declaration_of(pipeline), "addresses and bounds are no part of the declaration"
    with pytest.raises(DefinitionError, match="weight is 0"):
        pipeline.configured(weight=0)


# ---- registry and declarations


def handled(name: str = "counts", **changes: Any) -> Pipeline[Any]:  # noqa: ANN401 - any argument
    """Define a pipeline that handles messages."""
    pipeline = orders(name, **changes)
    pipeline.handles(recount)
    return pipeline


def decode(raw: RawMessage) -> object:
    """Return the content of a message."""
    return raw.value


@pytest.mark.parametrize(
    "changes",
    [
        {"source": KafkaSource("other")},
        {"source": JsonLinesSource("*.jsonl")},
        {"key": customer_of},
        {"key": Header("customer")},
        {"id": Header("id")},
        {"decode": decode},
        {"key": customer_of, "sequence": number_of},
        {"remember": timedelta(days=1)},
        {"model": Order, "id": of_order},
    ],
)
def test_a_change_of_effect_changes_the_fingerprint(changes: dict[str, Any]) -> None:
    """Each argument that decides the effect of a message is a part of the declaration."""
    if changes.get("model") is Order:
        other: Pipeline[Any] = orders("counts", **changes)

        @other.handles
        def function(message: Order, uow: StepWork) -> None: ...

    else:
        other = handled(**changes)
    one, two = PipelineRegistry([handled()]), PipelineRegistry([other])
    assert one.fingerprint("counts") != two.fingerprint("counts")


def test_a_registry_finds_pipelines_and_relays() -> None:
    """Each is found by its name and kind; another name is answered with those that exist."""
    counts, relay = handled(), Relay("stock", KafkaSink(), topics={"stock.changed": "stock"})
    registry = PipelineRegistry([counts], [relay], sagas={})
    assert (registry.pipeline("counts"), registry.relay("stock")) == (counts, relay)
    assert registry.declarations["stock"] == {"sink": {"kind": "kafka"}, "topics": {"stock.changed": "stock"}}
    with pytest.raises(NotFoundError, match="no pipeline is called 'stock'; defined are: counts"):
        registry.pipeline("stock")
    with pytest.raises(NotFoundError, match="no relay is called 'counts'; defined are: stock"):
        registry.relay("counts")
    with pytest.raises(NotFoundError, match="no pipeline or relay is called 'x'; defined are: counts, stock"):
        registry.fingerprint("x")


def test_pipelines_and_relays_share_their_names() -> None:
    """One name cannot stand for a pipeline and a relay, nor for two pipelines."""
    with pytest.raises(DefinitionError, match="'counts' is the name of two pipelines or relays"):
        PipelineRegistry([handled()], [Relay("counts", KafkaSink())])
    with pytest.raises(DefinitionError, match="'counts' is the name of two"):
        PipelineRegistry([handled(), handled()])


def test_a_registry_refuses_a_saga_that_is_not_loaded() -> None:
    """A pipeline that starts a saga of another module says which setting to change."""
    pipeline = orders()
    pipeline.starts(place_order)(to_order)
    PipelineRegistry([pipeline], sagas={"place-order": place_order})
    with pytest.raises(DefinitionError, match="starts saga 'place-order', which no configured module defines"):
        PipelineRegistry([pipeline], sagas={})


def test_the_bounds_are_documented() -> None:
    """The docstring of the bounds describes each of them."""
    assert all(f"        {name}: " in (Bounds.__doc__ or "") for name in asdict(Bounds()))
