"""Runs everything that the documentation shows: the code of its pages and the examples of its docstrings."""

import doctest
import importlib
import re
import shutil
from pathlib import Path

import pytest
from documents.pages import Block, PageError, PageRun, normalised, prints_as_shown, read_blocks, read_needs
from repository import ROOT, module_name, package_files, repository_files

from amends.sagas.temporal.server.ports import free_port

PAGES = [
    path for path in repository_files() if path.suffix == ".md" and path.parts[0] in {"README.md", "docs", "examples"}
]


PARTS = {
    "kafka": "kafka_address",
    "nats": "nats_address",
    "port": "unused_tcp_port",
    "postgresql": "postgres_url",
    "temporal": "temporal_address",
}
# The ports of the services in the pages of the examples; the tests replace them by free ports.
PORTS = {
    "PAYMENT_URL": "http://127.0.0.1:8701",
    "SHIPPING_URL": "http://127.0.0.1:8702",
    "BANK_URL": "http://127.0.0.1:8703",
    "NATS_URL": "nats://127.0.0.1:8704",
}


# The page of an example that takes a minute: `make demo` runs the same program.
LONG_PAGES = {Path("examples/payments/README.md")}


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=(pytest.mark.soak,) if path in LONG_PAGES else (), id=str(path)) for path in PAGES],
)
def test_the_code_of_a_page_works(
    path: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block of a page that is not marked as skipped runs, and commands print the page's output."""
    needs = read_needs((ROOT / path).read_text(encoding="utf-8"))
    # Users write URLs without the driver's name.
    stand_ins = {
        shown: str(request.getfixturevalue(PARTS[part])).replace("+psycopg", "") for part, shown in needs.items()
    }
    folder = tmp_path
    if path.parts[0] == "examples":
        folder = copied_example(path.parent, tmp_path)
        for variable, shown in PORTS.items():
            address, _, port = shown.rpartition(":")
            stand_ins[port] = str(free_port())
            monkeypatch.setenv(variable, f"{address}:{stand_ins[port]}")
    PageRun(ROOT / path, folder, stand_ins).run()


def copied_example(folder: Path, target: Path) -> Path:
    """Copy the examples, and return the folder of one of them, in which its page runs."""
    for each in repository_files():
        if each.parts[0] == "examples":
            (target / each).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / each, target / each)
    return target / folder


@pytest.mark.parametrize(
    "path", [path for path in package_files() if ">>>" in (ROOT / path).read_text("utf-8")], ids=str
)
def test_the_examples_of_docstrings_hold(path: Path) -> None:
    """Every example in a docstring prints the output that it shows."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(importlib.import_module(module_name(path)), optionflags=flags).failed == 0


@pytest.mark.parametrize("path", [path for path in PAGES if path.parts[0] != "docs"], ids=str)
def test_the_links_of_a_page_outside_of_the_docs_lead_somewhere(path: Path) -> None:
    """Relative links of pages that the documentation build does not read point to files of the repository."""
    text = re.sub(r"^```.*?^```", "", (ROOT / path).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:|#", target)]
    missing = [target for target in targets if not (ROOT / path.parent / target.partition("#")[0]).exists()]
    assert not missing, f"{path}: links lead nowhere: {missing}"


def page(tmp_path: Path, text: str) -> PageRun:
    """Create a page with the given text, where `'''` stands for a fence."""
    (tmp_path / "page.md").write_text(text.replace("'''", "```"), encoding="utf-8")
    (tmp_path / "empty").mkdir()
    return PageRun(tmp_path / "page.md", tmp_path / "empty")


def test_names_carry_over_from_block_to_block(tmp_path: Path) -> None:
    """The Python blocks of one page share a module, which is importable by the page's name, and may await."""
    text = """
'''python
import asyncio
async def answer() -> int:
    return 42
'''
text between
'''python
import sys
x = await answer()
assert sys.modules[answer.__module__].x == 42
'''
<!-- python
assert x == 42
-->
"""
    assert page(tmp_path, text).run() == 3


def test_a_file_of_a_page_is_importable_and_runnable(tmp_path: Path) -> None:
    """A block marked as a file is there for the commands and the Python blocks that follow it."""
    text = """
<!-- file: shop/stock.py -->

'''python
LEFT = 3
'''

'''console
$ cd shop
$ python -c 'import stock; print(stock.LEFT); print(1); print(2)'
3
...
$ echo a \\
> b; test -e stock.py
a b
'''

'''python
from pathlib import Path
assert Path("stock.py").exists()
from shop import stock
assert stock.LEFT == 3
'''
"""
    assert page(tmp_path, text).run() == 3


def test_commands_of_a_page_are_those_of_one_terminal(tmp_path: Path) -> None:
    """A command's exports and exit status are there for the next command; a failure that the page shows is no fault."""
    text = """
'''console
$ export COLOUR=blue
$ (exit 4)
$ echo $?
4
$ echo $COLOUR $?
blue 0
'''
"""
    assert page(tmp_path, text).run() == 1


def test_what_a_command_asks_in_a_terminal_is_answered(tmp_path: Path) -> None:
    """A command that asks finds a terminal, and the page shows question and answer."""
    text = """
<!-- terminal: y -->

'''console
$ test -t 0 && read -p 'Sure? [y/N]: ' answer && echo "$answer it is"
Sure? [y/N]: y
y it is
'''
"""
    assert page(tmp_path, text).run() == 1
    (tmp_path / "page.md").write_text((tmp_path / "page.md").read_text().replace("terminal: y", "terminal: n"))
    with pytest.raises(PageError, match="prints something else"):
        PageRun(tmp_path / "page.md", tmp_path / "empty").run()


def test_a_command_in_the_background_goes_on_until_the_page_ends(tmp_path: Path) -> None:
    """The page goes on after the command's first output has appeared; at its end the command is interrupted."""
    serving = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: (open("stopped", "w").close(), sys.exit(0)))
print("starting", flush=True)
print("ready on port 4711", flush=True)
while True:
    time.sleep(1)
"""
    text = f"""
<!-- file: serve.py -->

'''python
{serving}
'''

<!-- background: in a second terminal -->

'''console
$ python serve.py
...
ready on port ...
'''

'''console
$ test ! -e stopped
'''
"""
    assert page(tmp_path, text).run() == 3
    assert (tmp_path / "empty" / "stopped").exists()


def test_an_excerpt_must_stand_in_its_file(tmp_path: Path) -> None:
    """A block that shows a part of a file is compared with the file, and does not run."""
    text = """
'''console
$ printf 'one\\ntwo\\nthree\\nfour\\n' > numbers
'''

<!-- excerpt: numbers -->

'''text
two
...
four
'''
"""
    shown = page(tmp_path, text)
    assert shown.run() == 1
    (tmp_path / "page.md").write_text((tmp_path / "page.md").read_text().replace("two\n...", "two"))
    with pytest.raises(PageError, match=r"page.md:9: does not stand in numbers"):
        shown.run()


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("ada-1  x  2 s ago  561 ms  error", "ada-1  x  now     1.2 s  error", True),
        ("2  +10 ms   StepSucceeded", "2  +1.2 s  StepSucceeded", True),
        ("2  +10 ms   StepSucceeded", "2  +10 ms   StepFailed", False),
        ("   0.51 s  pay: succeeded", "  10.00 s  pay: succeeded", True),
        ("run ada-1 of book-trip in 0.58 s: done", "run ada-1 of book-trip in 1.02 s: done", True),
        ("accepted 2026-11-25 02:25:07", "accepted 2027-01-01 00:00:00+00:00", True),
        ("http://127.0.0.1:8233", "http://127.0.0.1:44444", True),
        ("5 attempts, timeout 10 s", "5 attempts, timeout 20 s", False),
    ],
)
def test_what_differs_between_two_runs_is_not_compared(shown: str, printed: str, same: bool) -> None:  # noqa: FBT001 - a column
    """Measured times, moments and ports may differ between runs, and configured values may not."""
    assert prints_as_shown(normalised(shown), normalised(printed)) is same


def test_a_page_says_what_it_needs(tmp_path: Path) -> None:
    """A page's stand-in for a part is replaced by the part's real address in code and output."""
    text = (
        "<!-- needs: temporal as temporal.example:7233 -->\n'''console\n$ echo temporal.example:7233\n127.0.0.1:1\n'''"
    )
    assert read_needs(text) == {"temporal": "temporal.example:7233"}
    page(tmp_path, text)
    PageRun(tmp_path / "page.md", tmp_path / "empty", {"temporal.example:7233": "127.0.0.1:1"}).run()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("'''python\nx = 1", "page.md:1: ```python is never closed"),
        ("'''\nx = 1\n'''", "page.md:1: a block needs a language"),
        ("'''bash\nx = 1\n'''", "page.md:1: a block needs a language"),
        ("<!-- skip: -->\n'''python\nx\n'''", "page.md:1: <!-- skip: --> says nothing"),
        ("<!-- skip: needs a bank -->\ntext\n'''python\nx\n'''", "page.md:2: a block must follow"),
        ("<!-- file: a.py -->", "page.md:1: a block must follow"),
        ("'''console\nls\n'''", "page.md:2: a console block begins with `\\$ command`"),
        ("\n'''console\n$ true\n$ exit 3\n'''", "page.md:4: \\$ exit 3: exit code 3"),
        ("'''console\n$ (exit 3)\n$ echo $?\n4\n'''", "page.md:3: \\$ echo \\$\\?: prints something else"),
        ("<!-- background: here -->\n'''console\n$ sleep 9\n'''", "page.md:3: what runs in the background"),
        ("<!-- background: here -->\n'''console\n$ echo 1\n2\n'''", "page.md:3: \\$ echo 1: ended without"),
        ("<!-- background: here -->\n'''console\n$ bash -c 'echo 1; sleep 9'\n1\n'''", "after Ctrl-C"),
        ("'''console\n$ echo 1\n2\n'''", "(?s)page.md:2: \\$ echo 1: prints something else.*-2\n\\+1"),
    ],
)
def test_a_wrong_page_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    """A block that is malformed, fails or prints something else is named with its line."""
    with pytest.raises(PageError, match=complaint):
        page(tmp_path, text).run()


@pytest.mark.parametrize("text", ["'''python\n1 / 0\n'''", "'''json\n{,}\n'''", "'''toml\nx\n'''"])
def test_a_block_that_does_not_work_fails_its_page(tmp_path: Path, text: str) -> None:
    """An exception in Python, or data that cannot be read, fails the page."""
    with pytest.raises((ZeroDivisionError, ValueError)):
        page(tmp_path, text).run()


def test_a_skipped_block_is_not_run(tmp_path: Path) -> None:
    """A block that is skipped with a reason does not run, and the others do."""
    text = "<!-- skip: nobody divides by zero -->\n'''python\n1 / 0\n'''\n\n'''python\nassert True\n'''"
    assert page(tmp_path, text).run() == 1


def test_blocks_are_found_within_lists() -> None:
    """The code of a block is without the indent of its fence."""
    assert read_blocks("- a\n\n  ```python\n  if x:\n      y\n  ```\n", "page") == [
        Block("python", "if x:\n    y\n", 4)
    ]


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a\nb", "a\nb\n", True),
        ("a", "a\nb\n", False),
        ("a\n...", "a\nb\nc\n", True),
        ("a\n...\nc", "a\nb\nb\nc\n", True),
        ("a\n...\nc", "a\nb\nb\nd\n", False),
        ("took ... ms", "took 12.5 ms\n", True),
        ("took ... ms", "took 1\n2 ms\n", False),
        ("a.b", "axb\n", False),
        ("a", "a   \n", True),
    ],
)
def test_output_is_compared_with_ellipses(shown: str, printed: str, same: bool) -> None:  # noqa: FBT001 - a column
    """`...` stands for any text of a line or any lines; all else is compared exactly."""
    assert prints_as_shown(shown, printed) is same
