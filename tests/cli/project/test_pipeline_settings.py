"""Test `[pipelines.NAME]`: values that replace those of definitions, and credentials from the environment."""

import json
from pathlib import Path

import pytest
from commands import CommandProject

from amends.aggregates.errors import InputError
from amends.cli.project.configured_pipelines import access_of
from amends.cli.project.pipeline_settings import PipelineSettings, read_pipeline_settings
from amends.cli.project.settings import load_settings, settings_from
from amends.pipelines.definition.access import Access
from amends.pipelines.intake.modes import Mode

MODULE = """
from pydantic import BaseModel
from amends import Header, JsonLinesSource, KafkaSource, Pipeline, StepWork
from amends.pipelines.definition.relays import Relay
from amends.pipelines.definition.sinks import KafkaSink

class Counted(BaseModel):
    sku: str

def sku_of(message: Counted) -> str:
    return message.sku

counts = Pipeline("counts", KafkaSource("counts"), Counted, id=Header("id"), key=sku_of)

@counts.handles
def recount(message: Counted, uow: StepWork) -> None: ...

stock = Relay("stock", KafkaSink(), topics=["stock.changed"])
"""


@pytest.fixture
def shop(tmp_path: Path) -> CommandProject:
    """Return a project with a pipeline and a relay."""
    project = CommandProject(tmp_path / "shop")
    project.write("shop.py", MODULE)
    return project


def configure(project: CommandProject, tables: str = "") -> None:
    """Write the settings file."""
    project.write("amends.toml", f'modules = ["shop"]\n{tables}')


def test_tables_replace_values_of_definitions(shop: CommandProject) -> None:
    """Source, servers and bounds of the file win over those of the code; the rest stays."""
    configure(
        shop,
        '[pipelines.counts]\nsource = { kind = "nats", stream = "COUNTS" }\nservers = "nats://n:1"\nbatch = 5\n'
        '[pipelines.stock]\nservers = "b:1"\n',
    )
    shown = json.loads(shop.run("describe", "counts", "--json").out)
    assert shown["source"] == "stream 'COUNTS' of NATS at nats://n:1"
    assert (shown["bounds"]["batch"], shown["bounds"]["max_held"]) == (5, 10_000)
    assert json.loads(shop.run("describe", "stock", "--json").out)["sink"] == "Kafka at b:1"


def test_definitions_are_shown_to_people(shop: CommandProject) -> None:
    """`describe` and `catalog` show the pipeline and the relay, and `doctor` checks them."""
    configure(shop)
    described = shop.run("describe", "counts")
    assert described.code == 0
    for text in ("topic 'counts' of Kafka at 127.0.0.1:9092", "handles by recount", "header id", "sku_of", "7 d"):
        assert text in described.out
    catalog = shop.run("catalog").out
    assert "counts" in catalog
    assert "stock.changed" in catalog
    assert [each.get("pipeline", each.get("relay")) for each in json.loads(shop.run("catalog", "--json").out)] == [
        "counts",
        "stock",
    ]
    checks = json.loads(shop.run("doctor", "--json").out)["checks"]
    assert [each["found"] for each in checks if each["part"] == "pipelines"] == [
        "pipeline counts: topic 'counts' of Kafka at 127.0.0.1:9092",
        "relay stock: Kafka at 127.0.0.1:9092",
    ]


def test_a_name_that_nothing_has_is_answered_with_near_ones(shop: CommandProject) -> None:
    """`describe` of an unknown name names a pipeline that is nearly called so."""
    configure(shop)
    ended = shop.run("describe", "count")
    assert ended.code == 2
    assert "no saga or pipeline is called 'count'; did you mean 'counts'?" in ended.err
    assert "'counts' is no saga, so it has no plan" in shop.run("describe", "counts", "--mermaid").err


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[pipelines.count]\nbatch = 5", "pipelines.count is the table of no pipeline or relay; defined are: counts"),
        ('[pipelines.counts]\nsink = { kind = "kafka" }', "'counts' is a pipeline, which has a source; remove sink"),
        ("[pipelines.stock]\nbatch = 5", "pipelines.stock.batch: 'stock' is a relay, which has no such setting"),
        ("[pipelines.counts]\nmax_open_runs = 5", "max_open_runs is for pipelines that start runs"),
        ('[pipelines.counts]\nservers = "b"', "pipelines.counts.servers is refused: KafkaSource: servers has 'b'"),
        ('[pipelines.counts]\nsource = { kind = "sqs" }', "source.kind is 'sqs'; use one of kafka, nats, jsonl, store"),
        (
            '[pipelines.counts]\nsource = { kind = "jsonl", path = "x" }',
            "'path' is not a field of kind 'jsonl'; use pattern, envelope",
        ),
        ('[pipelines.counts]\nsource = { kind = "nats" }', "source is incomplete; kind 'nats' has the fields stream"),
        (
            '[pipelines.counts]\nsource = { kind = "jsonl", pattern = "x" }\nservers = "b:1"',
            "JsonLinesSource has no servers; remove the setting",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_one_line(shop: CommandProject, table: str, message: str) -> None:
    """A setting that does not fit the definition ends a command with one line and the code of wrong input."""
    configure(shop, table)
    ended = shop.run("catalog")
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert message in ended.err


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ("x", "amends.toml: pipelines is not a table; write [pipelines.NAME]"),
        ({"a": 5}, "amends.toml: pipelines.a is not a table"),
        ({"a": {"batches": 5}}, "pipelines.a: 'batches' is not a setting; did you mean batch?"),
        ({"a": {"xyz": 5}}, "'xyz' is not a setting; remove it or choose from source, sink, servers, mode"),
        ({"a": {"batch": 0}}, "pipelines.a.batch = 0 is refused: it must be a whole number from 1 to 1_000_000_000"),
        ({"a": {"batch": "5"}}, "pipelines.a.batch = '5' is refused"),
        ({"a": {"mode": "twice"}}, "mode = 'twice' is refused: it must be one of exactly-once, observed"),
        ({"a": {"source": "x"}}, "source = 'x' is refused: it must be a table such as"),
        ({"a": {"username": "ann"}}, "pipelines.a.username needs password_env; set both or neither"),
        ({"a": {"certificate_file": "c"}}, "pipelines.a.certificate_file needs key_file; set both or neither"),
    ],
)
def test_a_wrong_table_is_refused(tables: object, message: str) -> None:
    """Every wrong table or key ends in one line with the place and the remedy."""
    with pytest.raises(InputError) as raised:
        read_pipeline_settings(tables, "amends.toml", Path("/shop"))
    assert message in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("key", ["password", "token", "key_password", "password_env"])
def test_a_secret_in_the_file_is_refused_and_not_quoted(key: str) -> None:
    """A secret belongs into a variable; the message does not repeat it."""
    with pytest.raises(InputError) as raised:
        read_pipeline_settings({"a": {"username": "ann", key: "of-the-user!"}}, "amends.toml", Path("/shop"))
    assert "of-the-user" not in str(raised.value)
    assert "environment variable" in str(raised.value)


def test_credentials_come_from_the_environment() -> None:
    """Paths start from the project's folder, and the secrets are read when somebody connects."""
    table = {
        "username": "ann",
        "password_env": "KAFKA_PASSWORD",
        "mechanism": "PLAIN",
        "ca_file": "ca.pem",
        "tls": True,
        "mode": "shadow",
    }
    settings = read_pipeline_settings({"a": table}, "amends.toml", Path("/shop"))["a"]
    assert settings.mode is Mode.SHADOW
    secret = "of-the-user"  # noqa: S105 - of this test
    found = access_of("a", settings, {"KAFKA_PASSWORD": secret})
    assert found == Access(username="ann", password=secret, mechanism="PLAIN", ca_file="/shop/ca.pem", tls=True)
    with pytest.raises(InputError, match=r"KAFKA_PASSWORD is not set, but pipelines.a.password_env names it"):
        access_of("a", settings, {"KAFKA_PASSWORD": ""})
    assert access_of("a", None) == Access()


def test_doctor_names_a_variable_that_is_not_set(shop: CommandProject) -> None:
    """A missing secret is found before anything connects."""
    configure(shop, '[pipelines.counts]\nusername = "ann"\npassword_env = "SHOP_PASSWORD"\n')
    ended = shop.run("doctor")
    assert ended.code == 1
    assert "environment variable SHOP_PASSWORD is not set" in " ".join(ended.out.split())
    assert "SHOP_PASSWORD" not in shop.run("doctor", env={"SHOP_PASSWORD": "x"}).out


def test_settings_of_pipelines_are_read_with_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables are a part of the settings, from a file and from arguments; the environment cannot set them."""
    (tmp_path / "amends.toml").write_text("[pipelines.counts]\nweight = 3\n")
    settings = load_settings(tmp_path)
    assert settings.pipelines == {"counts": PipelineSettings(weight=3)}
    assert settings.shown()["pipelines"] == "counts"
    assert settings_from(pipelines={"counts": {"weight": 3}}).pipelines == settings.pipelines
    monkeypatch.setenv("AMENDS_PIPELINES", "counts")
    with pytest.raises(InputError, match="AMENDS_PIPELINES: 'counts' is refused: it must be tables of the settings"):
        load_settings(tmp_path)


def test_every_key_is_documented() -> None:
    """The docstring describes each key, for the reference page."""
    missing = [
        name for name in PipelineSettings.model_fields if f"        {name}: " not in (PipelineSettings.__doc__ or "")
    ]
    assert not missing
