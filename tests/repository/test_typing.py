"""Type checkers accept the documented uses of the definition API, and refuse wrong ones for the right reason."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

CASES = ROOT / "tests" / "data" / "typing_cases"
EXPECTED = re.compile(r'  # type: ignore\[(?P<code>[a-z-]+)\]  # "(?P<words>.*)"$')
FOUND = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+): error: (?P<words>.*)  \[(?P<code>[a-z-]+)\]$")
KINDS = 50
"""The minimum number of wrong uses; fewer would mean that the test does not read some any more."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], list[tuple[str, str]]]:
    """Run mypy once on the right uses and, without their ignores, the wrong ones; return errors by file and line."""
    bare = tmp_path_factory.mktemp("typing") / "refused_bare.py"
    lines = (CASES / "refused.py").read_text(encoding="utf-8").splitlines()
    bare.write_text("".join(EXPECTED.sub("", line) + "\n" for line in lines), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", CASES / "accepted.py", bare],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, 1}, f"mypy did not run: {done.stdout}{done.stderr}"
    errors: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for line in done.stdout.splitlines():
        if match := FOUND.match(line):
            where = (Path(match["file"]).name, int(match["line"]))
            errors.setdefault(where, []).append((match["code"], match["words"]))
    return errors


def test_right_uses_are_accepted(found: dict[tuple[str, int], list[tuple[str, str]]]) -> None:
    """`mypy --strict` accepts every documented use, and infers the types that are written next to it."""
    wrong = {where: errors for where, errors in found.items() if where[0] != "refused_bare.py"}
    assert not wrong


def test_right_uses_can_be_loaded() -> None:
    """A use that type checkers accept can be loaded, and its sagas compile."""
    names = runpy.run_path(str(CASES / "accepted.py"))
    assert list(names["place"].plan.nodes) == ["reserve", "check", "charge", "quote", "confirm", "receipt.send"]


def test_wrong_uses_are_refused(found: dict[tuple[str, int], list[tuple[str, str]]]) -> None:
    """Each wrong use is an error on its line, with the code and the words next to it, and nothing else is."""
    lines = (CASES / "refused.py").read_text(encoding="utf-8").splitlines()
    expected = {number: match for number, line in enumerate(lines, 1) if (match := EXPECTED.search(line))}
    assert len(expected) >= KINDS
    actual = {line: errors for (name, line), errors in found.items() if name == "refused_bare.py"}
    accepted = [f"{number}: {lines[number - 1]}" for number in expected.keys() - actual.keys()]
    assert not accepted, "mypy accepts wrong uses:\n" + "\n".join(accepted)
    unexpected = {line: errors for line, errors in actual.items() if line not in expected}
    assert not unexpected
    for line, match in expected.items():
        assert {code for code, _ in actual[line]} == {match["code"]}, f"line {line}: {actual[line]}"
        assert any(match["words"] in words for _, words in actual[line]), f"line {line}: {actual[line]}"
