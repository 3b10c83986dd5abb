"""Reads and runs the code in Markdown pages, so that no page shows what does not work.

All code of a page is run in the page's order, in one new, empty folder.

| in the page | what happens |
|---|---|
| block `python` | runs in the page's module: names carry over, `await` works at the top level |
| block `console` | each line `$ command` runs in bash with this environment's programs, and must exit with 0 |
| lines under a command | must be what it prints; `...` is any text in a line, alone on a line any lines |
| block `json`, `toml` | must be readable as such |
| block `text`, `mermaid`, `sql`, `yaml`, `ini`, `{directive}` | is only shown |
| `<!-- file: PATH -->` above a block | the block becomes that file in the page's folder instead |
| `<!-- skip: REASON -->` above a block | the block is not run; without a reason it is an error |
| `<!-- python` ... `-->` | runs like a block, but readers do not see it |

The page's module is named after the page, in lower case, and can be imported while the page runs.
A folder entered with ``cd`` in one command is where the following commands and Python blocks run.
"""

import ast
import asyncio
import difflib
import inspect
import json
import linecache
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

RUN = frozenset({"console", "json", "python", "toml"})
SHOWN = frozenset({"ini", "mermaid", "sql", "text", "yaml"})
COMMAND_TIMEOUT_S = 120

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<info>[^`\n]*)$")
_MARK = re.compile(r"^ *<!-- *(?P<kind>file|skip):(?P<text>.*?)-->\s*$")
_HIDDEN = re.compile(r"^ *<!-- python\s*$")


class PageError(AssertionError):
    """A page is written wrongly, or shows something that does not happen."""


@dataclass(frozen=True)
class Block:
    """A piece of code of a page.

    Attributes:
        language: First word after the fence.
        code: The text, without the indent of its fence.
        line: Line of the page that the code begins on, from 1.
        file: Where the text belongs instead of being run, or None.
        skipped: Why it is not run, or None.
    """

    language: str
    code: str
    line: int
    file: str | None = None
    skipped: str | None = None


def read_blocks(text: str, name: str) -> list[Block]:
    """Find the code of a page.

    Args:
        text: The page.
        name: Its name, for messages.

    Raises:
        PageError: A fence without a language or with one that is not listed above, a fence that is not closed, a skip
            without a reason, or a mark that no block follows.
    """
    lines = text.splitlines()
    blocks: list[Block] = []
    marks: dict[str, str] = {}
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if mark := _MARK.match(line):
            marks[mark["kind"]] = mark["text"].strip()
            if not marks[mark["kind"]]:
                raise PageError(f"{name}:{number}: {line.strip()} says nothing: add the reason or path")
        elif (fence := _FENCE.match(line)) or _HIDDEN.match(line):
            end = rf" {{0,3}}{fence['indent']}{fence['fence']}`*\s*" if fence else r" *-->\s*"
            close = next((at for at in range(number, len(lines)) if re.fullmatch(end, lines[at])), None)
            if close is None:
                raise PageError(f"{name}:{number}: {line.strip()} is never closed")
            language = _language(fence["info"] if fence else "python", f"{name}:{number}")
            indent = len(fence["indent"]) if fence else 0
            code = "".join(
                f"{inner[min(indent, len(inner) - len(inner.lstrip())) :]}\n" for inner in lines[number:close]
            )
            blocks.append(Block(language, code, number + 1, marks.get("file"), marks.get("skip")))
            marks = {}
            number = close + 1
        elif line.strip() and marks:
            raise PageError(f"{name}:{number}: a block must follow <!-- {next(iter(marks))}: ... -->")
    if marks:
        raise PageError(f"{name}:{number}: a block must follow <!-- {next(iter(marks))}: ... -->")
    return blocks


def _language(info: str, place: str) -> str:
    """Take the language from the text after a fence."""
    words = info.split()
    if words and (words[0] in RUN | SHOWN or words[0].startswith("{")):
        return words[0]
    known = ", ".join(sorted(RUN | SHOWN))
    raise PageError(f"{place}: a block needs a language, one of {known}; found {info.strip()!r}")


class PageRun:
    """Runs the blocks of one page.

    Args:
        path: The page.
        folder: An empty folder, where everything of the page happens.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self._path = path
        self._folder = folder
        self._module = ModuleType(re.sub(r"\W", "_", path.stem.lower()))
        self._module.__file__ = str(path)

    def run(self) -> int:
        """Run the page and return how many blocks were run; the first that fails raises."""
        blocks = [
            each for each in read_blocks(self._path.read_text(encoding="utf-8"), self._path.name) if not each.skipped
        ]
        before, name = Path.cwd(), self._module.__name__
        replaced = sys.modules.get(name)
        sys.modules[name] = self._module
        sys.path.insert(0, str(self._folder))
        os.chdir(self._folder)
        try:
            with asyncio.Runner() as runner:
                for block in blocks:
                    self._run_block(block, runner)
        finally:
            os.chdir(before)
            sys.path.remove(str(self._folder))
            self._forget_modules()
            if replaced is None:
                del sys.modules[name]
            else:
                sys.modules[name] = replaced
        return sum(block.language in RUN for block in blocks)

    def _run_block(self, block: Block, runner: asyncio.Runner) -> None:
        if block.file is not None:
            target = Path.cwd() / block.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            self._run_python(block, runner)
        elif block.language == "console":
            self._run_console(block)
        elif block.language == "json":
            json.loads(block.code)
        elif block.language == "toml":
            tomllib.loads(block.code)

    def _run_python(self, block: Block, runner: asyncio.Runner) -> None:
        # Blank lines in front: tracebacks, and whoever reads source by line number, find the line of the page.
        source = "\n" * (block.line - 1) + block.code
        linecache.cache[str(self._path)] = (
            len(source),
            None,
            self._path.read_text("utf-8").splitlines(True),
            str(self._path),
        )
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(source, str(self._path), "exec", flags=flags, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:
            runner.run(eval(code, self._module.__dict__))  # noqa: S307 - the project's own pages
        else:
            exec(code, self._module.__dict__)  # noqa: S102 - the project's own pages

    def _run_console(self, block: Block) -> None:
        for line, command, expected in _commands(block, self._path.name):
            place = f"{self._path.name}:{line}: $ {command}"
            moved_to = self._folder / ".moved-to"
            script = f'{command}\nstatus=$?\npwd > "$MOVED_TO"\nexit $status'
            done = subprocess.run(
                ["bash", "-c", script],
                env=self._environment() | {"MOVED_TO": str(moved_to)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
                text=True,
            )
            if done.returncode != 0:
                raise PageError(f"{place}: exit code {done.returncode}; it printed:\n{done.stdout}")
            if expected and not prints_as_shown(expected, done.stdout):
                shown = "\n".join(
                    difflib.unified_diff(
                        expected.splitlines(), done.stdout.splitlines(), "shown", "printed", lineterm=""
                    )
                )
                raise PageError(f"{place}: prints something else than the page shows:\n{shown}")
            os.chdir(moved_to.read_text(encoding="utf-8").rstrip("\n"))
            moved_to.unlink()

    def _environment(self) -> dict[str, str]:
        """Build the surroundings of a reader who has just activated the environment."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AMENDS_", "TEMPORAL_", "PYTEST_"))
        }
        path = os.pathsep.join([sysconfig.get_path("scripts"), kept.get("PATH", os.defpath)])
        return kept | {"PATH": path, "HOME": str(self._folder), "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}

    def _forget_modules(self) -> None:
        """Drop the modules that were imported from the page's folder."""
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(f"{self._folder}{os.sep}"):
                del sys.modules[name]


def _commands(block: Block, name: str) -> list[tuple[int, str, str]]:
    """Split a console block into line, command and the output that is shown for it."""
    found: list[tuple[int, list[str], list[str]]] = []
    continued = False
    for number, line in enumerate(block.code.splitlines(), block.line):
        if continued:
            found[-1][1].append(line.removeprefix("> "))
        elif line.startswith("$ "):
            found.append((number, [line[2:]], []))
        elif found:
            found[-1][2].append(line)
        elif line.strip():
            raise PageError(f"{name}:{number}: a console block begins with `$ command`, found {line!r}")
        continued = (continued or line.startswith("$ ")) and line.endswith("\\")
    return [(number, "\n".join(command), "\n".join(output).strip("\n")) for number, command, output in found]


def prints_as_shown(shown: str, printed: str) -> bool:
    """Compare output with what a page shows; `...` stands for any text in its line, alone on a line for any lines."""
    pattern = ""
    for line in shown.strip().splitlines():
        if line.strip() == "...":
            pattern += r"(?:[^\n]*\n)*?"
        else:
            pattern += "[^\n]*".join(map(re.escape, line.rstrip().split("..."))) + r"[ \t]*\n"
    return re.fullmatch(pattern, printed.strip("\n") + "\n") is not None
