"""The pytest plugin: one test item for each search that a function decorated with `@prove` asks for.

pytest loads it through its entry point in every project that has Amends installed, so it imports nothing of Amends
until it meets such a function.
"""

import inspect
import warnings
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from amends.sagas.prove.runtime.proof import Case, Proof

__all__ = ["ProofItem", "SampledWarning", "pytest_addoption", "pytest_pycollect_makeitem"]

_PROOF = "__amends_proof__"
_REPLAY = "--prove-replay"
_WIDTH = 120


class SampledWarning(UserWarning):
    """A search ended with random stories, because its time budget was spent."""


class ReplayedError(Exception):
    """The end of a replay.

    Args:
        story: The story that was played.
    """

    def __init__(self, story: Any) -> None:  # noqa: ANN401 - a type that would be imported here
        super().__init__(str(story))
        self.story = story


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that plays one story again."""
    group = parser.getgroup("amends")
    group.addoption(
        _REPLAY,
        metavar="TOKEN",
        help="Play the story of a token of a failed @prove test again, and show it; select that one test.",
    )


def pytest_pycollect_makeitem(collector: Any, name: str, obj: object) -> "list[ProofItem] | None":  # noqa: ANN401 - a private class of pytest
    """Return the items of a function that `@prove` decorates; `None` for anything else."""
    proof = getattr(obj, _PROOF, None) if inspect.isfunction(obj) else None
    if proof is None or not collector.istestfunction(obj, name):
        return None
    return [_item(collector, name, obj, proof, case) for case in _cases(collector, name, proof)]


def _cases(collector: Any, name: str, proof: "Proof") -> "tuple[Case, ...]":  # noqa: ANN401 - as above
    from amends.aggregates.errors import InputError  # noqa: PLC0415 - most projects have no such function

    try:
        return proof.cases
    except InputError as error:
        raise collector.CollectError(f"{name}: {error}") from None


def _item(collector: Any, name: str, function: object, proof: "Proof", case: "Case") -> "ProofItem":  # noqa: ANN401 - as above
    shown = f"{name}[{case.name}]" if case.name else name
    item: ProofItem = ProofItem.from_parent(collector, name=shown, callobj=function)
    item.proof, item.case = proof, case
    return item


class ProofItem(pytest.Function):
    """One search.

    Attributes:
        proof: The question.
        case: The contracts to explore.
    """

    proof: "Proof"
    case: "Case"

    def runtest(self) -> None:
        """Explore, or play the story of the token that the command line names."""
        token = self.config.getoption(_REPLAY)
        if token:
            raise ReplayedError(self.proof.replay(token))
        report = self.proof.explore(self.case)
        self.user_properties += [("verdict", report.verdict.value), ("stories", report.scenarios)]
        if report.verdict.value == "sampled":
            warnings.warn(SampledWarning(f"{report}; raise seconds=, or lower faults="), stacklevel=1)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:  # type: ignore[override]  # noqa: ANN401 - as in pytest.Function
        """Return the shortest story of a broken law, one line for a wrong argument, else a traceback."""
        from amends.aggregates.errors import AmendsError  # noqa: PLC0415 - most projects have no such function
        from amends.cli.output.answer import plain  # noqa: PLC0415 - as above
        from amends.cli.views.prove import report_view, story_view  # noqa: PLC0415 - as above
        from amends.sagas.prove.runtime.proof import BrokenLawError  # noqa: PLC0415 - as above

        match excinfo.value:
            case BrokenLawError() as error:
                replay = f"pytest '{self.nodeid}' {_REPLAY} "
                return plain(report_view(error.report, _WIDTH, replay=replay), _WIDTH)
            case ReplayedError() as error:
                return plain(story_view(error.story, _WIDTH), _WIDTH)
            case AmendsError() as error:
                return str(error)
            case _:
                return super().repr_failure(excinfo)
