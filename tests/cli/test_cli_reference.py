"""Test that the reference of the command line matches the commands."""

import re
import runpy
from typing import Any

import pytest
from repository import ROOT

from amends.cli.app import COMMANDS


@pytest.fixture(scope="module")
def generator() -> dict[str, Any]:
    """Load the program that writes the page."""
    return runpy.run_path(str(ROOT / "docs" / "_tools" / "cli_reference.py"))


def test_the_page_is_what_is_generated(generator: dict[str, Any]) -> None:
    """The page in the repository equals the generated one; `python docs/_tools/cli_reference.py` writes it."""
    assert generator["PAGE"].read_text(encoding="utf-8") == generator["reference"]()


def test_every_command_and_option_is_in_it(generator: dict[str, Any]) -> None:
    """Each command has a heading, and each of its options a row with an explanation."""
    page = generator["reference"]()
    sections = dict(re.findall(r"^## (amends.*)\n((?:(?!## ).*\n)*)", page, flags=re.MULTILINE))
    assert {f"amends {each.name}" for each in COMMANDS} < set(sections)
    for name, command in generator["commands"]():
        for parameter in command.params:
            shown = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar.strip("[]")
            rows = [line for line in sections[name].splitlines() if shown in line.replace("\\|", "|")]
            assert any(re.search(r"\| \S.+\|$", row) for row in rows), f"{name}: {shown} is not explained"


def test_the_list_of_commands_says_what_the_commands_say(generator: dict[str, Any]) -> None:
    """The line for a command in `amends --help`, written without its import, is the first line of its own help."""
    helps = {name: command.help for name, command in generator["commands"]()}
    for each in COMMANDS:
        assert helps[f"amends {each.name}"].partition("\n")[0] == each.help
