"""The report of a search as one web page: the plan with covered and failing points, and each story as a timeline. Pure.

The page needs nothing but itself: no script, no font, no other file. Text of users is escaped.
"""

from collections.abc import Iterator, Sequence
from html import escape

from amends.aggregates.run.fact import FactKind
from amends.aggregates.run.facts import Fact
from amends.aggregates.run.plan import Plan, PlanNode, StepKind
from amends.cli.views.facts import timeline_row
from amends.cli.views.prove import BOOKS, book_rows, ends_text, numbers_text
from amends.cli.views.table import escaped
from amends.sagas.prove.report import BrokenLaw, Report
from amends.sagas.prove.story import Story

__all__ = ["prove_page"]

_BOX_W, _BOX_H, _GAP_X, _GAP_Y, _EDGE = 232, 116, 44, 20, 12
_ROW, _HALF, _NAME_CHARS = 17, 112, 26

_STEP = (("acts", FactKind.STEP_SUCCEEDED), ("refused", FactKind.STEP_REJECTED), ("fails", FactKind.STEP_FAILED))
_EFFECT = (("in doubt", FactKind.STEP_IN_DOUBT), ("answered late", FactKind.LATE_EFFECT_OBSERVED))
_UNDO = (("undone", FactKind.COMPENSATION_SUCCEEDED), ("undo refused", FactKind.COMPENSATION_REJECTED))
_UNDO_EFFECT = (("undo gives up", FactKind.COMPENSATION_EXHAUSTED),)

_CSS = """
:root { --ink: #1c2330; --dim: #5c6675; --line: #d5dae2; --paper: #fff;
  --good: #1a7f4b; --bad: #c0262d; --warn: #9a6700; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --dim: #9aa4b2; --line: #3a4352; --paper: #14181f;
    --good: #4cc38a; --bad: #ff7b72; --warn: #e3b341; }
}
body { margin: 2rem auto; padding: 0 1rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } h3 { font-size: 1rem; }
code, .mono { font-family: ui-monospace, monospace; font-size: 0.9em; overflow-wrap: anywhere; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { text-align: left; padding: 0.2rem 0.8rem 0.2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--dim); font-weight: 500; } .number { text-align: right; }
.proved { color: var(--good); } .sampled { color: var(--warn); } .broken { color: var(--bad); }
.plan { overflow-x: auto; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .name { font-weight: 600; font-size: 13px; } svg .dim { fill: var(--dim); }
svg .box { fill: none; stroke: var(--line); stroke-width: 1.5; } svg .failing { stroke: var(--bad); stroke-width: 2.5; }
svg .way { stroke: var(--dim); fill: none; }
svg .covered { fill: var(--good); } svg .open { fill: none; stroke: var(--dim); }
ol.story { list-style: none; margin: 1rem 0; padding: 0; border-left: 2px solid var(--line); }
ol.story li { position: relative; padding: 0 0 0.7rem 1.4rem; }
ol.story li::before { content: ""; position: absolute; left: -0.42rem; top: 0.45rem; width: 0.7rem; height: 0.7rem;
  border-radius: 50%; background: var(--dim); }
ol.story li.fault::before { background: var(--bad); } ol.story li.fault { color: var(--bad); }
ol.story li.end::before { background: var(--ink); }
.facts { color: var(--dim); font-size: 0.9em; }
""".strip()


def prove_page(plan: Plan, reports: Sequence[Report]) -> str:
    """Return the page.

    Args:
        plan: The plan of the saga.
        reports: The reports, one for each combination of contracts; at least one.
    """
    title = f"{plan.saga}: every way to fail"
    body = "\n".join(
        [
            f"<h1>{_text(title)}</h1>",
            *_matrix(reports),
            *(part for report in reports for part in _report(plan, report)),
        ]
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{_text(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>\n{_CSS}\n</style>\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    return escape(escaped(text))


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(title)}</th>" for title in titles)
    lines = ("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(lines) + "\n</tbody>\n</table>"


def _matrix(reports: Sequence[Report]) -> Iterator[str]:
    if len(reports) == 1:
        return
    names = list(reports[0].contracts)
    rows = [
        [
            *(report.contracts[name].value for name in names),
            report.verdict.value,
            report.broken[0].law.statement if report.broken else "",
            numbers_text(report),
        ]
        for report in reports
    ]
    yield "<h2>Contracts</h2>"
    yield _table([*names, "result", "broken law", "explored"], rows)


def _report(plan: Plan, report: Report) -> Iterator[str]:
    contracts = report.contracts_text or "no participant"
    verdict = report.verdict.value
    yield f'<section>\n<h2>With {_text(contracts)}: <span class="{verdict}">{verdict}</span></h2>'
    rows = [
        ("faults", f"up to {report.faults}"),
        ("explored", numbers_text(report)),
        ("ends", ends_text(report)),
        ("coverage", str(report.coverage)),
    ]
    if report.explored.sampled:
        rows.append(("sampled", f"{report.explored.sampled:,} random stories with seed {report.seed}"))
    yield _table(["", ""], rows)
    yield "<h3>The plan</h3>"
    yield "<p>A full circle is a point that a story reached, and a red box is part of a story that breaks a law.</p>"
    yield _diagram(plan, report)
    for broken in report.broken:
        yield from _broken(broken)
    yield "</section>"


# ---- the plan


def _diagram(plan: Plan, report: Report) -> str:
    tallest = max(len(stage.nodes) for stage in plan.stages)
    width = len(plan.stages) * (_BOX_W + _GAP_X) - _GAP_X + 2 * _EDGE
    height = tallest * (_BOX_H + _GAP_Y) - _GAP_Y + 2 * _EDGE
    failing = _failing(plan, report)
    parts = [f'<div class="plan"><svg role="img" aria-label="plan" width="{width}" height="{height}">']
    for column, stage in enumerate(plan.stages):
        x = _EDGE + column * (_BOX_W + _GAP_X)
        top = (height - (len(stage.nodes) * (_BOX_H + _GAP_Y) - _GAP_Y)) // 2
        if column:
            middle = height // 2
            parts.append(f'<path class="way" d="M{x - _GAP_X + 6} {middle} H{x - 8} m-6 -4 l6 4 l-6 4"/>')
        for row, node in enumerate(stage.nodes):
            y = top + row * (_BOX_H + _GAP_Y)
            parts += _box(node, x, y, report.coverage.kinds.get(node.name, frozenset()), failing=node.name in failing)
    return "\n".join([*parts, "</svg></div>"])


def _box(node: PlanNode, x: int, y: int, kinds: frozenset[str], *, failing: bool) -> Iterator[str]:
    style = "box failing" if failing else "box"
    name = node.name if len(node.name) <= _NAME_CHARS else f"{node.name[: _NAME_CHARS - 1]}…"
    yield f'<g data-node="{_text(node.name)}"><title>{_text(node.name)}</title>'
    yield f'<rect class="{style}" x="{x}" y="{y}" width="{_BOX_W}" height="{_BOX_H}" rx="8"/>'
    yield f'<text class="name" x="{x + 10}" y="{y + 20}">{_text(name)}</text>'
    yield f'<text class="dim" x="{x + 10}" y="{y + 37}">{node.role.value} {node.kind.value}</text>'
    for number, (label, kind) in enumerate(_points(node)):
        left, line = x + 10 + number % 2 * _HALF, y + 58 + number // 2 * _ROW
        style = "covered" if kind in kinds else "open"
        yield f'<circle class="{style}" cx="{left + 4}" cy="{line - 4}" r="4"><title>{kind}</title></circle>'
        yield f'<text x="{left + 14}" y="{line}">{label}</text>'
    yield "</g>"


def _points(node: PlanNode) -> tuple[tuple[str, str], ...]:
    effect = node.kind is StepKind.EFFECT
    points = _STEP + (_EFFECT if effect else ())
    if node.undo is not None:
        points += _UNDO + (_UNDO_EFFECT if effect else ())
    return points


def _failing(plan: Plan, report: Report) -> set[str]:
    """Return the nodes that a broken law names, or a fault of its story."""
    texts = [
        text
        for broken in report.broken
        for text in (broken.message, *(line.text for line in broken.story.lines if line.fault))
    ]
    return {name for name in plan.nodes if any(repr(name) in text for text in texts)}


# ---- stories


def _broken(broken: BrokenLaw) -> Iterator[str]:
    yield f'<h3 class="broken">Broken law: {_text(broken.law.statement)}</h3>'
    yield f"<p>{_text(broken.message)}</p>"
    yield f"<p>The shortest story that breaks it has {broken.faults} fault{'' if broken.faults == 1 else 's'}:</p>"
    yield from _story(broken.story)
    yield f"<p>Replay: <code>{_text(broken.token)}</code></p>"


def _story(story: Story) -> Iterator[str]:
    started = {fact.run_id: fact.as_of_ms for fact in reversed(story.facts)}
    yield '<ol class="story">'
    for line in story.lines:
        style = ' class="fault"' if line.fault else ""
        facts = "".join(f'<div class="facts mono">{_fact(fact, started[fact.run_id])}</div>' for fact in line.facts)
        yield f"<li{style}>{_text(line.text)}{facts}</li>"
    yield f'<li class="end">the end: {_text(", ".join(story.statuses))}</li>\n</ol>'
    if story.books:
        yield "<p>The participants' books at the end:</p>"
        yield _table([column.title for column in BOOKS], book_rows(story))


def _fact(fact: Fact, started_ms: int) -> str:
    position, since, kind, node, *_, detail = timeline_row(fact, started_ms, whole=False)
    return _text(" ".join(filter(None, (position, since, kind, node, detail))))
