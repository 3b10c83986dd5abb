"""The reference pages of settings, exit codes, facts and the Python interface agree with the code."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from repository import ROOT

import amends
import amends.testing
from amends.aggregates.run.facts import FACTS
from amends.cli.exit_codes import ExitCode
from amends.cli.project.settings import Settings
from amends.pipelines.control.facts import PIPELINE_FACTS
from amends.reconciler.drift.stream import RECONCILIATION_FACTS
from amends.reconciler.maintenance_windows import MAINTENANCE_FACTS
from amends.reconciler.schedules.facts import SCHEDULE_FACTS

PROGRAM = ROOT / "docs" / "_tools" / "references.py"
PAGES = ("settings.md", "exit-codes.md", "facts.md", "python.md")


@pytest.fixture(scope="module")
def generator() -> dict[str, Any]:
    """Load the program that writes the pages."""
    return runpy.run_path(str(PROGRAM))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_is_generated(generator: dict[str, Any], name: str) -> None:
    """The page in the repository equals the generated one; `python docs/_tools/references.py` writes it."""
    path = ROOT / "docs" / "reference" / name
    assert path.read_text(encoding="utf-8") == generator["PAGES"][path]()


def test_every_page_is_compared(generator: dict[str, Any]) -> None:
    """No page is generated and then forgotten."""
    assert sorted(path.name for path in generator["PAGES"]) == sorted(PAGES)


def test_every_setting_is_in_it(generator: dict[str, Any]) -> None:
    """Each setting that a user may write has a row with its meaning, its values and its default."""
    rows = re.findall(r"^\| `(\w+)` \| (.{10,}) \| (.{3,}) \| (.+) \|$", generator["settings_page"](), re.MULTILINE)
    assert {row[0] for row in rows} == set(Settings.model_fields) - {"project_dir", "config_file"}


def test_every_exit_status_is_in_it(generator: dict[str, Any]) -> None:
    """Each status is listed with its meaning, in the words of its class."""
    listed = {code: meaning for code, _, meaning in generator["exit_codes"]()}
    assert set(ExitCode) <= set(listed)
    assert all(len(meaning) > 10 for meaning in listed.values())
    assert listed[ExitCode.COMPENSATED] == "The saga run was compensated."


def test_every_fact_and_field_is_in_it(generator: dict[str, Any]) -> None:
    """Each kind of fact has a heading, and each of its own fields a row with an explanation."""
    page = generator["facts_page"]()
    sections = dict(re.findall(r"^### (\w+)\n((?:(?!##).*\n)*)", page, flags=re.MULTILINE))
    kinds: dict[str, type[BaseModel]] = {
        **FACTS,
        **RECONCILIATION_FACTS,
        **MAINTENANCE_FACTS,
        **SCHEDULE_FACTS,
        **PIPELINE_FACTS,
    }
    assert set(sections) == set(kinds)
    titles = ("Reconciliation", "Maintenance", "Schedules", "Pipelines")
    common = page.partition("## The run")[0]
    common += "".join(page.partition(f"## {title}")[2].partition("### ")[0] for title in titles)
    for kind, cls in kinds.items():
        for field in cls.model_fields:
            assert re.search(rf"^\| `{field}` \| `.+` \| .+ \|$", sections[kind] + common, re.MULTILINE), (kind, field)


@pytest.mark.parametrize("module", [amends, amends.testing])
def test_every_public_name_is_on_the_page_of_the_python_interface(module: Any) -> None:  # noqa: ANN401 - modules
    """Each public name has a line that a reader of the raw page sees, and its details; no other name has."""
    page = Path(ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| (.{10,}) \|$", page, re.MULTILINE)
    assert {name for name, _ in listed} == {*amends.__all__, *amends.testing.__all__}
    documented = re.findall(rf"^\.\. auto\w+:: {module.__name__}\.(\w+)$", page, re.MULTILINE)
    assert sorted(documented) == sorted(module.__all__)
