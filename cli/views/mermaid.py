"""A plan as a Mermaid flowchart: the way forward, and the way back when a step fails. Pure."""

from collections.abc import Iterator, Mapping

from amends.aggregates.run.plan import Plan, PlanNode, Role, Stage
from amends.compensations.catalog import CatalogEntry

__all__ = ["flowchart"]

_SHAPES = {Role.COMPENSATABLE: ("[", "]"), Role.PIVOT: ("{{", "}}"), Role.RETRIABLE: ("([", "])")}
_PLAIN = " _-.,:/()'"
_STYLES = (
    "classDef undo stroke-dasharray: 4 3",
    "classDef ending font-weight: bold",
)


def flowchart(plan: Plan, catalog: Mapping[str, CatalogEntry]) -> str:
    """Return the flowchart of a plan.

    Rectangles are compensatable steps, the hexagon is the pivot, rounded boxes are retriable. Dashed boxes are
    compensations; the dashed way leads from the last compensation to the first.

    Args:
        plan: The plan.
        catalog: The catalog's entries by step, for the names of compensations.
    """
    return "\n".join(["flowchart TD", *(f"    {line}" for line in _lines(plan, catalog))]) + "\n"


def _lines(plan: Plan, catalog: Mapping[str, CatalogEntry]) -> Iterator[str]:
    ids = {name: f"n{at}" for at, name in enumerate(plan.nodes)}
    forward, back = ["start"], []
    yield f'start(["{_label(plan.saga)}"]):::ending'
    for number, stage in enumerate(plan.stages):
        yield from _group(stage, f"s{number}", "in parallel", [_node(node, ids[node.name]) for node in stage.nodes])
        forward.append(f"s{number}" if len(stage.nodes) > 1 else ids[stage.nodes[0].name])
    yield 'completed(["COMPLETED"]):::ending'
    yield from (f"{one} --> {other}" for one, other in zip(forward, [*forward[1:], "completed"], strict=True))
    for number, stage in enumerate(plan.stages):
        undone = [node for node in stage.nodes if node.undo is not None]
        if not undone:
            continue
        how = "undone one by one" if stage.ordered else "undone together"
        boxes = [f'u{ids[node.name]}["{_undo(node, catalog)}"]:::undo' for node in undone]
        yield from _group(stage, f"us{number}", how, boxes)
        yield from (f"{ids[node.name]} -.-> u{ids[node.name]}" for node in undone)
        back.append(f"us{number}" if len(boxes) > 1 else f"u{ids[undone[0].name]}")
    if back:
        yield 'compensated(["COMPENSATED"]):::ending'
        back.reverse()
        yield from (f"{one} -.-> {other}" for one, other in zip(back, [*back[1:], "compensated"], strict=True))
    yield from _STYLES


def _group(stage: Stage, name: str, title: str, boxes: list[str]) -> Iterator[str]:
    if len(boxes) == 1 or len(stage.nodes) == 1:
        yield from boxes
        return
    yield f'subgraph {name} ["{title}"]'
    yield from (f"    {box}" for box in boxes)
    yield "end"


def _node(node: PlanNode, name: str) -> str:
    before, after = _SHAPES[node.role]
    what = [node.kind.value]
    if node.role is not Role.COMPENSATABLE:
        what.append(node.role.value)
    if node.probe:
        what.append("can be asked")
    if node.read_only:
        what.append("read-only")
    lines = [_label(node.name), ", ".join(what)]
    if node.irreversible is not None:
        lines.append(f"irreversible: {_label(node.irreversible)}")
    return f'{name}{before}"{"<br/>".join(lines)}"{after}'


def _undo(node: PlanNode, catalog: Mapping[str, CatalogEntry]) -> str:
    entry = catalog.get(node.step)
    location = entry.compensation if entry is not None else None
    return _label(location.rpartition(":")[2] if location else f"undo of {node.name}")


def _label(text: str) -> str:
    """Return text for a label, with every character that Mermaid or HTML would interpret written by its number."""
    shown = "".join(char if char.isprintable() else " " for char in " ".join(text.split()))
    return "".join(char if _is_plain(char) else f"#{ord(char)};" for char in shown)


def _is_plain(char: str) -> bool:
    return char.isalnum() or char in _PLAIN or not char.isascii()
