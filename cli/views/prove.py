"""Views of a search: its report, a story, the contract matrix, as rows for people and as JSON for programs. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pydantic import JsonValue
from rich.console import RenderableType
from rich.text import Text

from amends.aggregates.run.facts import Fact
from amends.cli.views.facts import TIMELINE, fact_json, timeline_row
from amends.cli.views.table import Column, fields, styled, table
from amends.sagas.definition.participants import Contract
from amends.sagas.prove.report import BrokenLaw, Report, Verdict
from amends.sagas.prove.story import Story, StoryLine

__all__ = [
    "BOOKS",
    "book_rows",
    "ends_text",
    "matrix_view",
    "numbers_text",
    "report_json",
    "report_view",
    "story_json",
    "story_view",
]

_FAULT = "!"
_STYLES = {Verdict.PROVED: "green", Verdict.SAMPLED: "yellow", Verdict.BROKEN: "bold red"}

_STORY = (
    Column("#", 3, right=True),
    Column("fault", 5),
    Column("run", 5),
    Column("event", 40, copied=True),
    Column("facts", 5, copied=True),
)
BOOKS = (
    Column("participant", 11, copied=True),
    Column("step", 6),
    Column("key", 20, copied=True),
    Column("acted", 5, right=True),
    Column("undone", 6, right=True),
)
"""The columns of the participants' books."""


# ---- reports


def report_view(report: Report, width: int, *, replay: str, most: int | None = None) -> list[RenderableType]:
    """Return a report: the numbers, and the shortest story of each broken law.

    Args:
        report: The report.
        width: Columns of the screen.
        replay: The command that plays a story again, without its token.
        most: The number of broken laws to show with their stories; `None` for all.
    """
    shown: list[RenderableType] = [
        Text.assemble((report.saga, "bold"), "  ", (report.verdict.value.upper(), _STYLES[report.verdict])),
        "",
        fields(_numbers(report), width),
    ]
    for broken in report.broken[:most]:
        shown += ["", *_broken_view(broken, width, replay)]
    others = [] if most is None else report.broken[most:]
    if others:
        shown += ["", Text(f"Also broken: {', '.join(each.law.name for each in others)}", "red")]
    return shown


def numbers_text(report: Report) -> str:
    """Return the size of a search on one line, such as `12,354 stories in 748 states`."""
    return f"{_count(report.scenarios, 'story', 'stories')} in {_count(report.states, 'state')}"


def ends_text(report: Report) -> str:
    """Return the ways in which the runs end, each with the number of different states in which they do."""
    ends = sorted(report.explored.ends.items())
    return ", ".join(f"{' + '.join(statuses)}: {count:,}" for statuses, count in ends)


def _numbers(report: Report) -> list[tuple[str, str | None]]:
    explored = report.explored
    sampled = None
    if explored.complete < report.faults:
        bound = _count(explored.complete, "fault")
        done = f"every story with up to {bound}" if explored.complete >= 0 else "not even every story without a fault"
        sampled = f"{done}, and {explored.sampled:,} random stories with seed {report.seed}"
    return [
        ("faults", f"up to {report.faults}"),
        ("operators", f"up to {_count(report.operators, 'decision')}" if report.operators else None),
        ("explored", numbers_text(report)),
        ("sampled", sampled),
        ("ends", ends_text(report)),
        ("contracts", _contracts(report)),
        ("coverage", str(report.coverage)),
    ]


def _contracts(report: Report) -> str:
    assumed = set(report.assumed)
    return ", ".join(
        f"{name}: {contract.value}" + (" (assumed)" if name in assumed else "")
        for name, contract in report.contracts.items()
    )


def _broken_view(broken: BrokenLaw, width: int, replay: str) -> Iterator[RenderableType]:
    yield Text.assemble(("Broken law: ", "bold red"), styled(broken.law.statement, "bold"), overflow="fold")
    yield styled(broken.message, "red")
    yield ""
    yield Text(f"The shortest story that breaks it, with {_count(broken.faults, 'fault')}:")
    yield from story_view(broken.story, width)
    yield ""
    yield Text.assemble(("replay: ", "dim"), replay + broken.token, overflow="fold")


# ---- stories


def story_view(story: Story, width: int) -> list[RenderableType]:
    """Return a story: its moves, the facts as `amends history` prints them, and the participants' books.

    Args:
        story: The story.
        width: Columns of the screen.
    """
    runs = _by_run(story.facts)
    several = len(runs) > 1
    moves = [_move(number, line, several=several) for number, line in enumerate(story.lines, 1)]
    shown: list[RenderableType] = [table(_STORY, moves, width)]
    for (run_id, facts), status in zip(runs.items(), story.statuses, strict=False):
        started_ms = facts[0].as_of_ms
        rows = [timeline_row(fact, started_ms, whole=False) for fact in facts]
        shown += ["", Text(f"The facts of {run_id}, which is {status}:"), table(TIMELINE, rows, width)]
    if story.books:
        shown += ["", Text("The participants' books:"), table(BOOKS, book_rows(story), width)]
    return shown


def book_rows(story: Story) -> list[tuple[str, ...]]:
    """Return the participants' books at the end of a story, a row for each page, with the cells of `BOOKS`."""
    return [(each.participant, each.node, each.key, str(each.acted), str(each.undone)) for each in story.books]


def _by_run(facts: Iterable[Fact]) -> dict[str, list[Fact]]:
    runs: dict[str, list[Fact]] = {}
    for fact in facts:
        runs.setdefault(fact.run_id, []).append(fact)
    return dict(sorted(runs.items()))


def _move(number: int, line: StoryLine, *, several: bool) -> tuple[str, ...]:
    positions = [fact.position for fact in line.facts]
    facts = f"{positions[0]}-{positions[-1]}" if len(positions) > 1 else "".join(map(str, positions))
    return str(number), _FAULT * line.fault, line.run if several else "", line.text, facts


# ---- the contract matrix


def matrix_view(reports: Sequence[Report], width: int) -> list[RenderableType]:
    """Return the contract matrix: for each combination of contracts whether the saga holds.

    Args:
        reports: One report for each combination; all of one saga.
        width: Columns of the screen.
    """
    names = list(reports[0].contracts)
    columns = (
        *(Column(name, 8, copied=True) for name in names),
        Column("result", 8, copied=True),
        Column("faults", 6, right=True),
        Column("law", 20, below=True),
        Column("stories", 7, right=True),
    )
    return [table(columns, [_matrix_row(report, names) for report in reports], width)]


def _matrix_row(report: Report, names: Sequence[str]) -> tuple[str | Text, ...]:
    first = report.broken[0] if report.broken else None
    return (
        *(report.contracts[name].value for name in names),
        Text(report.verdict.value, _STYLES[report.verdict]),
        f"{first.faults}" if first else "",
        first.law.name if first else "",
        f"{report.scenarios:,}",
    )


# ---- JSON


def report_json(report: Report) -> dict[str, JsonValue]:
    """Return a report as JSON."""
    explored = report.explored
    return {
        "saga": report.saga,
        "verdict": report.verdict.value,
        "holds": report.holds,
        "faults": report.faults,
        "operators": report.operators,
        "contracts": _contracts_json(report.contracts),
        "assumed": list(report.assumed),
        "stories": report.scenarios,
        "states": report.states,
        "complete_up_to": explored.complete,
        "sampled": explored.sampled,
        "seed": report.seed,
        "ends": [{"statuses": list(statuses), "states": count} for statuses, count in sorted(explored.ends.items())],
        "coverage": {
            "used": len(report.coverage.used),
            "total": report.coverage.total,
            "unused": [str(row) for row in report.coverage.unused],
        },
        "broken": [_broken_json(each) for each in report.broken],
    }


def _contracts_json(contracts: Mapping[str, Contract]) -> dict[str, JsonValue]:
    return {name: contract.value for name, contract in contracts.items()}


def _broken_json(broken: BrokenLaw) -> dict[str, JsonValue]:
    return {
        "law": broken.law.name,
        "statement": broken.law.statement,
        "message": broken.message,
        "faults": broken.faults,
        "replay": broken.token,
        "story": story_json(broken.story),
    }


def story_json(story: Story) -> dict[str, JsonValue]:
    """Return a story as JSON, with every fact in full."""
    return {
        "moves": [
            {"text": line.text, "fault": line.fault, "run": line.run, "facts": [fact.position for fact in line.facts]}
            for line in story.lines
        ],
        "statuses": list(story.statuses),
        "facts": [fact_json(fact) for fact in story.facts],
        "books": [each._asdict() for each in story.books],
    }


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
