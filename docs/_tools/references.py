"""Write the reference pages of settings, exit codes, facts and the Python interface from the code that defines them.

`python docs/_tools/references.py` writes the pages; a test compares them with the generated text.
"""

# ruff: noqa: INP001 - a program, not a package

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import amends
import amends.testing
from amends.aggregates import errors
from amends.aggregates.run.facts import FACTS, Fact, NodeFact
from amends.cli.app import CLOSED_PIPE
from amends.cli.exit_codes import ExitCode, exit_code_of
from amends.cli.project.pipeline_settings import PipelineSettings
from amends.cli.project.settings import ENV_PREFIX, Settings
from amends.pipelines.control.facts import PIPELINE_FACTS, PipelineFact
from amends.reconciler.drift.facts import ReconciliationFact
from amends.reconciler.drift.stream import RECONCILIATION_FACTS
from amends.reconciler.maintenance_windows import MAINTENANCE_FACTS, MaintenanceFact
from amends.reconciler.schedules.facts import SCHEDULE_FACTS, ScheduleFact

__all__ = ["PAGES", "attributes", "exit_codes", "exit_codes_page", "facts_page", "python_page", "settings_page"]

_Reconciling = ReconciliationFact | MaintenanceFact | ScheduleFact | PipelineFact
_FOLDER = Path(__file__).parents[1] / "reference"
_NOT_SET = frozenset({"project_dir", "config_file"})

SETTINGS = """\
# Settings

<!-- Written by docs/_tools/references.py from cli/project/settings.py; do not edit. -->

This page is for you if you configure Amends. You write settings into `amends.toml`, or into the table `[tool.amends]`
of `pyproject.toml`. Amends reads the file in the current directory or in its nearest parent that has one. With `amends
-C DIR` you name the directory, and Amends searches no parent. A directory without either file is a project with the
defaults.

```toml
modules = ["shop.sagas"]
store_url = "postgresql://shop@db.example/shop"
task_queue = "shop"
```

An environment variable overrides its key, unless it is empty: `{prefix}STORE_URL` overrides `store_url`. Separate the
items of a list with commas: `{prefix}MODULES=shop.orders,shop.returns`. An unknown key is an error, and so is a
variable that looks like a misspelt one. Relative paths start from the project's directory. `amends doctor` prints the
settings in force.

| key | meaning | value | default |
|---|---|---|---|
{rows}

## Pipelines

A table `[pipelines.NAME]` has the settings of one pipeline or relay. Each value replaces the one of the definition. The
file holds no secret: a key that ends in `_env` names the environment variable that has it. Paths start from the
project's directory. See [Define a pipeline](../how-to/define-a-pipeline.md).

| key | meaning | value |
|---|---|---|
{pipelines}

## Stores

| URL | store |
|---|---|
| `sqlite:///path/to/events.db` | an SQLite file; three slashes before a relative path, four before an absolute one |
| `postgresql://user:password@host/database` | PostgreSQL; special characters of the password are percent-encoded |

Amends never prints the password. See [Run on PostgreSQL and a Temporal cluster](../how-to/postgresql-and-temporal.md).

## Temporal

You choose the Temporal server with Temporal's own standard client configuration, and not with a setting of Amends:
`TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, `TEMPORAL_TLS*`, or a profile (`TEMPORAL_PROFILE`) of the
file that `TEMPORAL_CONFIG_FILE` names. If you configure no address, Amends uses the embedded server.

## Other variables

| variable | effect |
|---|---|
| `AMENDS_DEBUG=1` | adds the traceback to the error that ends a command |
| `NO_COLOR` | turns colours off |
| `COLUMNS` | lays answers out for that width, also in a pipe |
"""

EXIT_CODES = """\
# Exit codes

<!-- Written by docs/_tools/references.py from cli/exit_codes.py; do not edit. -->

This page is for you if a script or a scheduler of yours runs `amends`. It can act on the exit code of every command:
one number has one meaning.

| code | name | meaning |
|---|---|---|
{codes}

Commands that only read (`list`, `show`, `explain`, `history`, `sagas`, `describe`, `catalog`) end with 0 if they could
answer, independent of the outcomes of the runs that they show. If stored facts of the run are unreadable, `show`,
`explain` and `history` print the readable ones and end with 6. Some commands search for something: `list --stuck` ends
with 1 if a run is stuck, and `prove` ends with 1 if a story breaks a law. A store that does not exist yet is a part
that could not be reached: 3. With a file of inputs, `amends run` ends with the highest code of its runs.

## Errors

An error ends a command with one line on stderr that begins with `amends: ` and names the problem, the wrong value and
the remedy. The class of the error determines the exit code:

| error | code | condition |
|---|---|---|
{errors}
| any `OSError` | {os_error} | The operating system refuses something, such as a file or a connection. |
| anything else | {other} | Amends itself failed; please report it. |
"""

FACTS_TEXT = """\
# Facts

<!-- Written by docs/_tools/references.py from the classes of the facts; do not edit. -->

This page is for you if you read the history of a run, or write a program that does. A run is one stream of facts in the
journal, in past tense, never changed and never deleted. You list them with `amends history ID`, and see every field
with `amends history ID --json`. The diagrams in [States of a run](state-diagram.md) show which fact may follow another.

## Every fact

{common}
The id of a fact is `<run id>:<position>`, so Amends recognises a fact that it writes a second time. A fact about a step
or its compensation also names the node:

{node}
{sections}
## Reconciliation

Scans for drift are facts, too, in the stream `reconciliation/<rule>`; `amends reconciliation ID` lists them. Each
of them has these fields:

{reconciliation}
{scans}
## Maintenance

Maintenance windows are in the stream `reconciliation_maintenance/all`. Every fact has these fields:

{maintenance}
{windows}
## Schedules

Schedules are in the stream `reconciliation_schedules/all`. Every fact has these fields:

{schedule}
{schedules}
## Pipelines

The declaration of a pipeline and the decisions about it are in the stream `pipeline/<name>`. Every fact has these
fields:

{pipeline}
{pipelines}"""


class _Section(NamedTuple):
    """A section of the page about Python.

    Attributes:
        title: Its heading.
        text: The text above its names; may be empty.
        names: Public names, each with the options that autodoc gets for it.
        module: The module that exports them.
    """

    title: str
    text: str
    names: Mapping[str, Iterable[str]]
    module: ModuleType = amends


_MEMBERS = ("members:",)
_ALL_MEMBERS = ("members:", "inherited-members:")
_SECTIONS = (
    _Section(
        "Steps",
        "",
        {
            "transaction": (),
            "effect": (),
            "Retry": (),
            "Rejected": (),
            "Step": (),
            "Transaction": ("members: using, compensation",),
            "Effect": ("members: using, compensation, probe",),
            "Participant": (),
            "Contract": ("members:",),
        },
    ),
    _Section(
        "The context of a step",
        "A step receives a `UnitOfWork` or a `Call`; its compensation also receives `Done` or `Attempted`.",
        {"UnitOfWork": _ALL_MEMBERS, "Call": _ALL_MEMBERS, "Done": (), "Attempted": (), "Aggregate": ()},
    ),
    _Section(
        "Sagas",
        "",
        {"Saga": ("members: plan",), "parallel": (), "pivot": (), "retriable": (), "irreversible": ()},
    ),
    _Section(
        "Starting runs",
        "",
        {
            "Client": _ALL_MEMBERS,
            **dict.fromkeys(("RunHandle", "RunResult"), _MEMBERS),
            "RunSummary": ("members: to_json",),  # its docstring describes the attributes
            **dict.fromkeys(("RunStatus", "Runner"), _MEMBERS),
        },
    ),
    _Section(
        "Running a worker",
        "`amends worker` is such a process; see "
        "[Call a saga from a web application](../how-to/web-application.md#a-worker-in-your-own-process).",
        {"Worker": _MEMBERS},
    ),
    _Section(
        "Deciding about runs",
        "For operators' tools; see [Repair a run by hand](../how-to/repairing-a-run.md).",
        {"Intervention": (), "InterventionKind": _MEMBERS},
    ),
    _Section(
        "Participants",
        "For services that sagas call; see "
        "[Make a participant idempotent](../how-to/making-a-participant-idempotent.md).",
        {"Inbox": _MEMBERS, "Answer": (), "max_run_duration": ()},
    ),
    _Section(
        "Drift",
        "For rules that compare the journal with the world; see "
        "[Write a drift rule](../how-to/write-a-drift-rule.md).\n"
        "An `Intervene` contains an [`Intervention`](#deciding-about-runs).",
        {
            "drift_rule": (),
            "Observation": _MEMBERS,
            "RunQuery": (),
            "Drift": (),
            "DriftKind": (),
            "ScanFailed": (),
            "Command": (),
            "Cause": (),
            "Intervene": (),
        },
    ),
    _Section(
        "Pipelines",
        "For messages from outside; see [Define a pipeline](../how-to/define-a-pipeline.md).",
        {
            "Pipeline": ("members: starts, handles",),
            "Header": (),
            "Bounds": (),
            "KafkaSource": (),
            "NatsSource": (),
            "JsonLinesSource": (),
            "StoreSource": (),
            "Relay": (),
            "RunRelay": (),
            "KafkaSink": (),
            "NatsSink": (),
            "JsonLinesSink": (),
            "RawMessage": (),
            "StepWork": _MEMBERS,
        },
    ),
    _Section(
        "Testing",
        "See [Test a saga's failure paths](../how-to/test-failure-paths.md) and [Prove your "
        "sagas](../how-to/prove-your-sagas.md).",
        {
            "prove": (),
            "End": _MEMBERS,
            "BrokenLawError": (),
            "Scenario": _MEMBERS,
            "Then": _MEMBERS,
            "PipelineScenario": _MEMBERS,
            "RuleScenario": _MEMBERS,
            "Reconciled": (),
            "LostReply": (),
        },
        amends.testing,
    ),
    _Section(
        "Errors",
        "See [Exit codes](exit-codes.md) for the exit code of each.",
        dict.fromkeys(
            (
                "AmendsError",
                "BusyError",
                "DefinitionError",
                "InputError",
                "KeyConflictError",
                "NotFoundError",
                "RefusedError",
                "StartConflictError",
                "UnreachableError",
            ),
            (),
        ),
    ),
)

PYTHON = """\
# Python

<!-- Written by docs/_tools/references.py from the public names; do not edit. -->

This page is for you if you write code with Amends. You import every name from `amends`, and the test kit from
`amends.testing`; the modules below them may move. Python loads a name when you first use it: a module that only defines
sagas loads neither Temporal nor SQLAlchemy.

{sections}"""


def attributes(cls: type) -> dict[str, str]:
    """Return the text of every attribute that a class documents under `Attributes:`, by name."""
    text = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2]
    parts = re.split(r"^ {4}(\w+): ", text, flags=re.MULTILINE)[1:]
    return {name: " ".join(meaning.split()) for name, meaning in zip(parts[::2], parts[1::2], strict=True)}


def exit_codes() -> Iterator[tuple[int, str, str]]:
    """Return number, name and meaning of every exit code, the meaning as its class documents it."""
    meanings = attributes(ExitCode)
    for code in ExitCode:
        yield code.value, code.name, meanings[code.name]
    yield CLOSED_PIPE, "CLOSED_PIPE", "The reader of the output went away, such as `head` in a pipe."


def settings_page() -> str:
    """Return the page of every setting."""
    known = {name: field for name, field in Settings.model_fields.items() if name not in _NOT_SET}
    meanings = attributes(Settings)
    rows = [
        (f"`{name}`", meanings[name], str(field.description), _default(name, field)) for name, field in known.items()
    ]
    explained = attributes(PipelineSettings)
    pipelines = [
        (f"`{name}`", explained[name], str(field.description)) for name, field in PipelineSettings.model_fields.items()
    ]
    return SETTINGS.format(rows=_rows(rows), pipelines=_rows(pipelines), prefix=ENV_PREFIX)


def exit_codes_page() -> str:
    """Return the page of every exit code, and of the errors that lead to it."""
    classes = [getattr(errors, name) for name in errors.__all__]
    rows = [
        (f"`{cls.__name__}`", str(exit_code_of(cls.__new__(cls)).value), _first_line(cls))
        for cls in classes
        if issubclass(cls, errors.AmendsError)
    ]
    return EXIT_CODES.format(
        codes=_rows((str(code), name, meaning) for code, name, meaning in exit_codes()),
        errors=_rows(rows),
        os_error=exit_code_of(OSError()).value,
        other=exit_code_of(RuntimeError()).value,
    )


def facts_page() -> str:
    """Return the page of every kind of fact."""
    groups: Mapping[str, list[type[Fact]]] = {"The run": [], "A step": [], "A compensation": []}
    for cls in FACTS.values():
        about_node = "A compensation" if cls.__name__.startswith("Compensation") else "A step"
        groups[about_node if issubclass(cls, NodeFact) else "The run"].append(cls)
    sections = [f"## {title}\n\n{''.join(map(_fact, classes))}" for title, classes in groups.items()]
    return FACTS_TEXT.format(
        common=_fields(Fact, set()).rstrip("\n") + "\n",
        node=_fields(NodeFact, set(Fact.model_fields)).rstrip("\n") + "\n",
        sections="".join(sections).rstrip("\n") + "\n",
        reconciliation=_fields(ReconciliationFact, set()).rstrip("\n") + "\n",
        scans=_reconciliation_facts(ReconciliationFact, RECONCILIATION_FACTS),
        maintenance=_fields(MaintenanceFact, set()).rstrip("\n") + "\n",
        windows=_reconciliation_facts(MaintenanceFact, MAINTENANCE_FACTS),
        schedule=_fields(ScheduleFact, set()).rstrip("\n") + "\n",
        schedules=_reconciliation_facts(ScheduleFact, SCHEDULE_FACTS),
        pipeline=_fields(PipelineFact, set()).rstrip("\n") + "\n",
        pipelines=_reconciliation_facts(PipelineFact, PIPELINE_FACTS),
    )


def python_page() -> str:
    """Return the page of every public name: a line for each, and the directives for its details."""
    return PYTHON.format(sections="\n".join(map(_python_section, _SECTIONS)))


def _python_section(section: _Section) -> str:
    objects = {name: getattr(section.module, name) for name in section.names}
    rows = [(f"`{name}`", _first_line(value)) for name, value in objects.items()]
    directives = [
        f".. {_directive(objects[name])}:: {section.module.__name__}.{name}\n"
        + "".join(f"   :{option}\n" for option in options)
        for name, options in section.names.items()
    ]
    text = f"{section.text}\n\n" if section.text else ""
    table = f"| name | meaning |\n|---|---|\n{_rows(rows)}"
    return f"## {section.title}\n\n{text}{table}\n\n```{{eval-rst}}\n{''.join(directives)}```\n"


def _directive(value: object) -> str:
    if not isinstance(value, type):
        return "autofunction"
    return "autoexception" if issubclass(value, BaseException) else "autoclass"


def _fact(cls: type[Fact]) -> str:
    version = "" if cls.class_version == 1 else f" Version {cls.class_version}."
    common = NodeFact if issubclass(cls, NodeFact) else Fact
    return f"### {cls.__name__}\n\n{_first_line(cls)}{version}\n\n{_fields(cls, set(common.model_fields))}"


def _reconciliation_facts(common: type[_Reconciling], classes: Mapping[str, type[_Reconciling]]) -> str:
    """Return the sections of facts that have some fields in common."""
    known = set(common.model_fields)
    sections = (f"### {name}\n\n{_first_line(cls)}\n\n{_fields(cls, known)}" for name, cls in classes.items())
    return "".join(sections).rstrip("\n") + "\n"


def _fields(cls: type[Fact | _Reconciling], known: set[str]) -> str:
    """Return the table of a fact's own fields; nothing if it has none."""
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        meanings |= attributes(base) if issubclass(base, Fact | _Reconciling) else {}
    rows = [
        (f"`{name}`", f"`{_type(field.annotation)}`", meanings[name])
        for name, field in cls.model_fields.items()
        if name not in known
    ]
    return f"| field | type | meaning |\n|---|---|---|\n{_rows(rows)}\n\n" if rows else ""


def _type(annotation: Any) -> str:  # noqa: ANN401 - any type form
    shown = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return "JSON" if "JsonValue" in shown else str(annotation if "[" in str(annotation) else shown)


def _default(name: str, field: Any) -> str:  # noqa: ANN401 - pydantic's FieldInfo, whose default may be anything
    if name == "store_url":
        return "`events.db` in `data_dir`"
    default = field.default
    return "-" if default in (None, (), {}) else f"`{default}`"


def _first_line(documented: object) -> str:
    return (inspect.getdoc(documented) or "").partition("\n\n")[0].replace("\n", " ")


def _rows(rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


PAGES: Mapping[Path, Callable[[], str]] = {
    _FOLDER / "settings.md": settings_page,
    _FOLDER / "exit-codes.md": exit_codes_page,
    _FOLDER / "facts.md": facts_page,
    _FOLDER / "python.md": python_page,
}
"""Every page, and the function that generates it."""

if __name__ == "__main__":
    for path, generate in PAGES.items():
        path.write_text(generate(), encoding="utf-8")
