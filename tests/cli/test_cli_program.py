"""Test the reading commands as a program: imports, pipes, encodings and terminals."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence

import pytest
from forked import run_in_terminal
from reading_shop import (
    PROGRAM,
    Shop,
    environment,
)


def test_reading_imports_no_more_than_it_needs(shop: Shop) -> None:
    """Lists, histories and closed runs work without Temporal; definitions work without a database as well."""
    code = (
        "import sys; from amends.cli.app import main; assert main(sys.argv[1:]) == 0; "
        "print(*sorted({'sqlalchemy', 'temporalio'} & set(sys.modules)))"
    )
    for commands, needed in (
        ([["list"], ["show", "order-done"], ["history", "order-done"]], "sqlalchemy"),
        ([["sagas"], ["catalog"], ["describe", "place-order"]], ""),
    ):
        calls = "; ".join(f"assert main(['-C', {str(shop.folder)!r}, *{command!r}]) == 0" for command in commands)
        done = subprocess.run(
            [sys.executable, "-c", code.replace("assert main(sys.argv[1:]) == 0", calls)],
            capture_output=True,
            check=True,
            text=True,
        )
        assert done.stdout.splitlines()[-1] == needed


def test_a_reader_that_goes_away_is_no_error(shop: Shop) -> None:
    """`amends history ID | head -1` ends without a traceback or a complaint."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [PROGRAM, "-C", shop.folder, "history", "order-stuck"],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        text=True,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_poor_encoding_is_enough(shop: Shop) -> None:
    """A character that the output cannot encode is shown as a Python escape."""
    done = subprocess.run(
        [PROGRAM, "-C", shop.folder, "list"],
        env=environment(PYTHONIOENCODING="ascii", COLUMNS="100"),
        capture_output=True,
        check=True,
    )
    assert rb"\u2026" in done.stdout  # the ellipsis of a shortened error
    assert done.stdout.isascii()


@pytest.mark.parametrize(("no_color", "width"), [("", 120), ("1", 120), ("1", 24)])
def test_terminals_get_colours_unless_told_otherwise(shop: Shop, no_color: str, width: int) -> None:
    """On a terminal there are colours, except under `NO_COLOR`, and no line is wider than the terminal."""
    shown = on_terminal([str(PROGRAM), "-C", str(shop.folder), "show", "order-stuck"], width, NO_COLOR=no_color)
    assert ("\x1b[1;31mNEEDS_ATTENTION" in shown) is (not no_color)
    assert not re.search(r"\x1b\[(?:\d;)?3\d", shown) or not no_color
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert max(map(len, plain.splitlines())) <= width
    assert "\x1b" not in plain
    assert r"\x1b[31m" in plain.replace("\n", "").replace(" ", "")


def on_terminal(command: Sequence[str], width: int, **changes: str) -> str:
    """Run a program on a terminal of some width, and return all its output."""
    env = {name: value for name, value in environment(COLUMNS=str(width), **changes).items() if value}
    code, shown = run_in_terminal(command, environment=env)
    assert code == 0
    return shown
