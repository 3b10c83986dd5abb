"""Writes the reference pages of settings, exit status and facts from the classes that define them.

`python docs/references.py` writes the pages; a test compares them with what is generated.
"""

# ruff: noqa: INP001 - a program beside the pages, not a package

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from amends.aggregates import errors
from amends.aggregates.run.facts import FACTS, Fact, NodeFact
from amends.cli.app import CLOSED_PIPE
from amends.cli.exit_codes import ExitCode, exit_code_of
from amends.cli.project.settings import ENV_PREFIX, Settings
from amends.reconciler.drift.facts import ReconciliationFact
from amends.reconciler.drift.stream import RECONCILIATION_FACTS
from amends.reconciler.maintenance_windows import MAINTENANCE_FACTS, MaintenanceFact
from amends.reconciler.schedules.facts import SCHEDULE_FACTS, ScheduleFact

__all__ = ["PAGES", "attributes", "exit_codes", "exit_codes_page", "facts_page", "settings_page"]

_Reconciling = ReconciliationFact | MaintenanceFact | ScheduleFact
_FOLDER = Path(__file__).parent / "reference"
_NOT_SET = frozenset({"project_dir", "config_file"})

SETTINGS = """\
# Settings

<!-- Written by docs/references.py from cli/project/settings.py; do not edit. -->

Settings stand in `amends.toml`, or in the table `[tool.amends]` of `pyproject.toml`, in the current directory or in its
nearest parent that has one of them. `amends -C DIR` names the directory instead, and then no parent is searched. A
directory without either is a project with the defaults.

```toml
modules = ["shop.sagas"]
store_url = "postgresql://shop@db.example/shop"
task_queue = "shop"
```

A variable of the environment overrides its key, unless it is empty: `{prefix}STORE_URL` stands for `store_url`. Lists
are written with commas there: `{prefix}MODULES=shop.orders,shop.returns`. An unknown key is an error, and so is a
variable that looks like a misspelt one. Relative paths start from the project's directory. `amends doctor` prints what
is in force.

| key | meaning | value | default |
|---|---|---|---|
{rows}

## Stores

| URL | store |
|---|---|
| `sqlite:///path/to/events.db` | an SQLite file; three slashes before a relative path, four before an absolute one |
| `postgresql://user:password@host/database` | PostgreSQL; special characters of the password are percent-encoded |

A password is never printed. See [Run on PostgreSQL and a Temporal cluster](../how-to/postgresql-and-temporal.md).

## Temporal

Which Temporal is used is no setting of Amends: it is Temporal's own standard client configuration, that is
`TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, `TEMPORAL_TLS*`, or a profile (`TEMPORAL_PROFILE`) of the
file that `TEMPORAL_CONFIG_FILE` names. Where no address is configured, the embedded server is used.

## Other variables

| variable | does |
|---|---|
| `AMENDS_DEBUG=1` | adds the traceback of whatever ends a command |
| `NO_COLOR` | turns colours off |
| `COLUMNS` | lays answers out for that width, also in a pipe |
"""

EXIT_CODES = """\
# Exit status

<!-- Written by docs/references.py from cli/exit_codes.py; do not edit. -->

Scripts and schedulers may act on the exit status of every command: one number has one meaning.

| status | name | meaning |
|---|---|---|
{codes}

Commands that only read (`list`, `show`, `explain`, `history`, `sagas`, `describe`, `catalog`) end with 0 when they
could answer, whatever has become of the runs that they show. Where stored facts of the run cannot be read, `show`,
`explain` and `history` print what can be read and end with 6. Only `list --stuck` looks for something: it ends with 1
when a run is stuck. A store that does not exist yet is a part that could not be reached: 3.
With a file of inputs, `amends run` ends with the highest status of its runs.

## Errors

An error ends a command with one line on stderr that begins with `amends: ` and says what was wrong, its value and what
to do. Which status it has follows from its class:

| error | status | when |
|---|---|---|
{errors}
| any `OSError` | {os_error} | The operating system refuses something, such as a file or a connection. |
| anything else | {other} | Amends itself failed; please report it. |
"""

FACTS_TEXT = """\
# Facts

<!-- Written by docs/references.py from the classes of the facts; do not edit. -->

A run is one stream of facts in the journal, in past tense, never changed and never deleted. `amends history ID` lists
them, and `amends history ID --json` gives every field. Which fact may follow which is drawn in
[States of a run](state-diagram.md).

## Every fact

{common}
A fact's id is `<run id>:<position>`: writing the same fact again is recognised as such. Those about a step or its
compensation name the node as well:

{node}
{sections}
## Reconciliation

Looks for drift are facts, too, in the stream `reconciliation/<rule>`; `amends reconciliation ID` lists them. Every one
of them has these fields:

{reconciliation}
{looks}
## Maintenance

Maintenance windows are in the stream `reconciliation_maintenance/all`. Every fact has these fields:

{maintenance}
{windows}
## Schedules

Schedules are in the stream `reconciliation_schedules/all`. Every fact has these fields:

{schedule}
{schedules}"""


def attributes(cls: type) -> dict[str, str]:
    """Give the text of every attribute that a class documents under `Attributes:`, by name."""
    text = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2]
    parts = re.split(r"^ {4}(\w+): ", text, flags=re.MULTILINE)[1:]
    return {name: " ".join(meaning.split()) for name, meaning in zip(parts[::2], parts[1::2], strict=True)}


def exit_codes() -> Iterator[tuple[int, str, str]]:
    """Give number, name and meaning of every exit status, the meaning as its class documents it."""
    meanings = attributes(ExitCode)
    for code in ExitCode:
        yield code.value, code.name, meanings[code.name]
    yield CLOSED_PIPE, "CLOSED_PIPE", "The reader of our output went away, such as `head` in a pipe."


def settings_page() -> str:
    """Give the page of every setting."""
    known = {name: field for name, field in Settings.model_fields.items() if name not in _NOT_SET}
    meanings = attributes(Settings)
    rows = [
        (f"`{name}`", meanings[name], str(field.description), _default(name, field)) for name, field in known.items()
    ]
    return SETTINGS.format(rows=_rows(rows), prefix=ENV_PREFIX)


def exit_codes_page() -> str:
    """Give the page of every exit status, and of the errors that lead to it."""
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
    """Give the page of every kind of fact."""
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
        looks=_reconciliation_facts(ReconciliationFact, RECONCILIATION_FACTS),
        maintenance=_fields(MaintenanceFact, set()).rstrip("\n") + "\n",
        windows=_reconciliation_facts(MaintenanceFact, MAINTENANCE_FACTS),
        schedule=_fields(ScheduleFact, set()).rstrip("\n") + "\n",
        schedules=_reconciliation_facts(ScheduleFact, SCHEDULE_FACTS),
    )


def _fact(cls: type[Fact]) -> str:
    version = "" if cls.class_version == 1 else f" Version {cls.class_version}."
    common = NodeFact if issubclass(cls, NodeFact) else Fact
    return f"### {cls.__name__}\n\n{_first_line(cls)}{version}\n\n{_fields(cls, set(common.model_fields))}"


def _reconciliation_facts(common: type[_Reconciling], classes: Mapping[str, type[_Reconciling]]) -> str:
    """Make the sections of facts that have some fields in common."""
    known = set(common.model_fields)
    sections = (f"### {name}\n\n{_first_line(cls)}\n\n{_fields(cls, known)}" for name, cls in classes.items())
    return "".join(sections).rstrip("\n") + "\n"


def _fields(cls: type[Fact | _Reconciling], known: set[str]) -> str:
    """Make the table of a fact's own fields; nothing where it has none."""
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
    return "-" if default in {None, ()} else f"`{default}`"


def _first_line(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")


def _rows(rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


PAGES: Mapping[Path, Callable[[], str]] = {
    _FOLDER / "settings.md": settings_page,
    _FOLDER / "exit-codes.md": exit_codes_page,
    _FOLDER / "facts.md": facts_page,
}
"""Every page, and what generates it."""

if __name__ == "__main__":
    for path, generate in PAGES.items():
        path.write_text(generate(), encoding="utf-8")
