"""`amends dev` names loaded files that have changed, and what is new in them."""

import sys
from pathlib import Path

import pytest
from commands import CommandProject
from reading_shop import as_it_was

from amends.cli.project.load_modules import load_modules
from amends.cli.project.settings import load_settings
from amends.cli.runtime.code_watch import CodeWatch
from amends.cli.views.code_changes import changes_line, read_source, read_text

MODULE = """
from watched_parts import LIMIT

from amends import Call, Saga, effect


@effect(read_only=True)
async def greet(name: str, call: Call) -> str:
    return name


greeting = Saga("greeting", str, greet)
"""
RULE = """

@drift_rule(every=timedelta(minutes=1))
def bank_book(seen):
    return []
"""


RESTART = "restart amends dev to use it"


def line(before: str, after: str) -> str:
    """Return the line about one file."""
    one, other = read_source(before), read_source(after)
    assert one is not None
    assert other is not None
    return changes_line({"shop.py": (one, other)})


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("x = 1", "x = 2", "shop.py has changed; restart amends dev to use it"),
        ("", RULE, "shop.py has changed (new: drift rule bank_book); restart amends dev to use it"),
        (RULE, "", "shop.py has changed (gone: drift rule bank_book); restart amends dev to use it"),
        (
            "",
            "@amends.effect\nasync def pay(): ...",
            "shop.py has changed (new: step pay); restart amends dev to use it",
        ),
        ("", "@transaction\ndef book(): ...", "shop.py has changed (new: step book); restart amends dev to use it"),
        ("", "a: X = Saga('order', X)", "shop.py has changed (new: saga order); restart amends dev to use it"),
        ("", "a = amends.Saga(name='order')", "shop.py has changed (new: saga order); restart amends dev to use it"),
        ("", "a = Saga(NAME)\n@other\ndef f(): ...", "shop.py has changed; restart amends dev to use it"),
        (
            "".join(f"@effect\nasync def s{at}(): ...\n" for at in range(7)),
            "",
            "shop.py has changed (gone: step s0, step s1, step s2, step s3, step s4 and 2 more); " + RESTART,
        ),
    ],
)
def test_a_change_is_one_line(before: str, after: str, said: str) -> None:
    """The line names the file, the definitions that came or went, and the remedy."""
    assert line(before, after) == said


def test_comments_and_layout_are_no_change() -> None:
    """Two texts with one meaning are equal, and a text that is no Python has no meaning."""
    assert read_source("x = (1)  # one\n") == read_source("x = 1")
    assert read_source("x = 2") != read_source("x = 1")
    assert read_source("def f(:") is None
    assert read_source("x = '\0'") is None
    assert read_text("a = 1\n") == read_text("a = 1")


def test_several_files_share_a_line() -> None:
    """Changes that are found together are one line."""
    code = (read_text("a"), read_text("b"))
    assert changes_line({"b.py": code, "a.py": code}) == "a.py, b.py have changed; restart amends dev to use them"


@pytest.fixture
def project(tmp_path: Path) -> CommandProject:
    """Return a project with a module that imports another."""
    project = CommandProject(tmp_path / "shop")
    project.write("amends.toml", 'modules = ["watched"]\n')
    project.write("watched.py", MODULE)
    project.write("watched_parts.py", "LIMIT = 1\n")
    return project


def test_each_change_is_reported_once(project: CommandProject) -> None:
    """A change is reported when it begins and when definitions come or go; a return to the loaded text is silent."""
    with as_it_was():
        settings = load_settings(project.path)
        load_modules(settings)
        watch = CodeWatch(settings)
        steps = [
            ("watched.py", MODULE + "\n# a comment\n", None),
            ("watched.py", MODULE.replace("return name", "return name.upper()"), "watched.py has changed; "),
            ("watched.py", MODULE.replace("return name", "return name.lower()"), None),
            ("watched.py", MODULE + RULE, "watched.py has changed (new: drift rule bank_book); "),
            ("watched.py", MODULE + RULE[:30], None),
            ("watched.py", MODULE, None),
            ("watched_parts.py", "LIMIT = 2\n", "watched_parts.py has changed; "),
            ("amends.toml", 'modules = ["watched", "other"]\n', "amends.toml has changed; "),
            ("other.py", "not loaded", None),
        ]
        for name, text, said in steps:
            project.write(name, text)
            assert watch.look() == (said and f"{said}restart amends dev to use it")
            assert watch.look() is None
        (project.path / "watched.py").unlink()
        assert watch.look() is None
    for name in ("watched", "watched_parts"):
        sys.modules.pop(name)


def test_dev_reports_a_new_drift_rule(project: CommandProject) -> None:
    """The running command prints the line, and goes on."""
    with project.started("dev") as dev:
        dev.read_until("Ready")
        project.write("watched.py", MODULE + RULE)
        said = dev.read_until("has changed")
        assert said == "amends: watched.py has changed (new: drift rule bank_book); restart amends dev to use it\n"
        project.write("watched_parts.py", "LIMIT = 2\n")
        assert dev.read_until("has changed").startswith("amends: watched_parts.py")
        assert dev.stop() == 0
