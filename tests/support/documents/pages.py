"""Reads and runs the code in Markdown pages, so that no page shows code that does not work.

All code of a page runs in the page's order, in one new, empty folder. A command that is `amends` alone runs without a
shell, in a process that has already imported everything.

| in the page | effect |
|---|---|
| block `python` | runs in the page's module: names carry over, `await` works at the top level |
| block `console` | each line `$ command` runs in bash with this environment's programs, and must exit with 0 |
| `$ echo $?` under a command | shows its exit status, which may then differ from 0 |
| lines under a command | must be its output; `...` is any text in a line, alone on a line any lines |
| times, ports, process ids, widths of gaps in them | stand for others of their kind; `/projects` is the page's folder |
| block `json`, `toml` | must be valid |
| block `text`, `mermaid`, `sql`, `yaml`, `ini`, `{directive}` | is for readers only |
| `<!-- file: PATH -->` above a block | the block becomes that file in the page's folder instead |
| `<!-- excerpt: PATH -->` above a block | that file, in the page's folder or next to the page, must contain the block |
| `<!-- skip: REASON -->` above a block | the block does not run; without a reason it is an error |
| `<!-- background: WHERE -->` above a `console` block | its command runs next to the others until the page ends |
| `<!-- terminal: ANSWER -->` above a `console` block | its commands run in a terminal, which answers a question |
| `<!-- needs: PART as TEXT -->` | in blocks TEXT stands for `kafka`, `nats`, `postgresql`, `temporal` or `port` |
| `<!-- python` ... `-->` | runs like a block, but readers do not see it |

The page's module has the page's name, in lower case, and can be imported while the page runs.
A folder entered with ``cd`` in one command is where the following commands and Python blocks run; a variable that a
command exports is in the environment of the following commands. The page shows the beginning of the output of a command
in the background; the command gets Ctrl-C at the end of the page, after which it must exit with 0.
"""

import ast
import asyncio
import difflib
import inspect
import json
import linecache
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from bounds import HANG_S
from forked import Running, can_fork, run_forked, run_in_terminal, run_on_terminal

RUN = frozenset({"console", "json", "python", "toml"})
SHOWN = frozenset({"ini", "mermaid", "sql", "text", "yaml"})
PROJECTS = "/projects"

# Patterns for the parts that differ whenever a page runs, and their replacements in comparisons.
_DURATION = r"(?:\d+(?:\.\d+)?|\.\.\.) (?:ms|s|min(?: \d+ s)?|h(?: \d+ min)?)"
_VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:[+-]\d\d:\d\d|Z)?"), "<time>"),
    (re.compile(rf"(?:\bnow|\b{_DURATION} ago)(?:  +{_DURATION})?(?=\s|$)", re.MULTILINE), "<ago>"),
    (re.compile(rf"\+{_DURATION}"), "<since>"),
    (re.compile(rf"^ *{_DURATION}(?=  )", re.MULTILINE), "<since>"),
    (re.compile(rf"\b(took +|in |after ){_DURATION}"), r"\1<duration>"),
    (re.compile(r"\b(?:127\.0\.0\.1|localhost):\d+"), "<address>"),
    (re.compile(r"\bby [\w.-]+/\d+"), "by <worker>"),
    (re.compile(r" {2,}"), "  "),
)

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<info>[^`\n]*)$")
_MARK = re.compile(r"^ *<!-- *(?P<kind>background|excerpt|file|skip|terminal):(?P<text>.*?)-->\s*$")
_NEEDS = re.compile(r"^<!-- *needs: *(?P<part>\w+) as (?P<text>\S+) *-->\s*$", re.MULTILINE)
_HIDDEN = re.compile(r"^ *<!-- python\s*$")


class PageError(AssertionError):
    """A page contains a mistake, or shows something that does not happen."""


@dataclass(frozen=True)
class Block:
    """A piece of code of a page.

    Attributes:
        language: First word after the fence.
        code: The text, without the indent of its fence.
        line: First line of the code in the page, from 1.
        file: The file that the text becomes instead of running, or None.
        skipped: The reason why it does not run, or None.
        background: The mark's text for a command that runs until the page ends, or None.
        excerpt: The file that must contain it instead of running it, or None.
        terminal: The answer that its commands get in a terminal, or None.
    """

    language: str
    code: str
    line: int
    file: str | None = None
    skipped: str | None = None
    background: str | None = None
    excerpt: str | None = None
    terminal: str | None = None


def read_needs(text: str) -> dict[str, str]:
    """Find the parts that a page needs, with the text that stands for each of them in the page."""
    return {need["part"]: need["text"] for need in _NEEDS.finditer(text)}


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
            kinds = ("file", "skip", "background", "excerpt", "terminal")
            blocks.append(Block(language, code, number + 1, *map(marks.get, kinds)))
            marks = {}
            number = close + 1
        elif line.strip() and marks:
            raise PageError(f"{name}:{number}: a block must follow <!-- {next(iter(marks))}: ... -->")
    if marks:
        raise PageError(f"{name}:{number}: a block must follow <!-- {next(iter(marks))}: ... -->")
    return blocks


def _language(info: str, place: str) -> str:
    """Return the language from the text after a fence."""
    words = info.split()
    if words and (words[0] in RUN | SHOWN or words[0].startswith("{")):
        return words[0]
    known = ", ".join(sorted(RUN | SHOWN))
    raise PageError(f"{place}: a block needs a language, one of {known}; found {info.strip()!r}")


# Texts in which a shell replaces nothing, and ends of lines that it ignores.
_QUOTED = re.compile(r"'[^']*'" r'|"[^"$`\\]*"')
_CONTINUED = re.compile(r"(?P<quoted>'[^']*'" r'|"[^"]*")|\\\n')


class PageRun:
    """Runs the blocks of one page.

    Args:
        path: The page.
        folder: An empty folder for everything that the page does.
        stand_ins: Texts of the page, and their replacements when the page runs.
    """

    def __init__(self, path: Path, folder: Path, stand_ins: Mapping[str, str] | None = None) -> None:
        self._path = path
        self._folder = folder
        self._stand_ins = {PROJECTS: str(folder), **(stand_ins or {})}
        self._variables = self._environment()
        self._status = 0
        self._module = ModuleType(re.sub(r"\W", "_", path.stem.lower()))
        self._module.__file__ = str(path)

    def run(self) -> int:
        """Run the page and return the number of blocks that ran; raise at the first that fails."""
        blocks = [
            each for each in read_blocks(self._path.read_text(encoding="utf-8"), self._path.name) if not each.skipped
        ]
        before, name = Path.cwd(), self._module.__name__
        replaced = sys.modules.get(name)
        sys.modules[name] = self._module
        sys.path.insert(0, str(self._folder))
        os.chdir(self._folder)
        try:
            with asyncio.Runner() as runner, ExitStack() as background:
                for block in blocks:
                    self._run_block(replace(block, code=self._stand_in(block.code)), runner, background)
        finally:
            os.chdir(before)
            sys.path.remove(str(self._folder))
            self._forget_modules()
            if replaced is None:
                del sys.modules[name]
            else:
                sys.modules[name] = replaced
        return sum(block.language in RUN for block in blocks)

    def _stand_in(self, text: str) -> str:
        for shown, real in self._stand_ins.items():
            text = text.replace(shown, real)
        return text

    def _run_block(self, block: Block, runner: asyncio.Runner, background: ExitStack) -> None:
        if block.file is not None:
            target = Path.cwd() / block.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.code, encoding="utf-8")
        elif block.excerpt is not None:
            here = Path(block.excerpt)
            self._compare(block, (here if here.exists() else self._path.parent / here).read_text(encoding="utf-8"))
        elif block.language == "python":
            self._run_python(block, runner)
        elif block.background is not None:
            self._start(block, background)
        elif block.language == "console":
            self._run_console(block)
        elif block.language == "json":
            json.loads(block.code)
        elif block.language == "toml":
            tomllib.loads(block.code)

    def _compare(self, block: Block, text: str) -> None:
        """Check that a text contains a block."""
        if not prints_as_shown(f"...\n{block.code.strip()}\n...", text):
            raise PageError(f"{self._path.name}:{block.line}: does not stand in {block.excerpt}, which is:\n{text}")

    def _run_python(self, block: Block, runner: asyncio.Runner) -> None:
        # Blank lines in front: tracebacks, and tools that read source by line number, find the line of the page.
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
        commands = _commands(block, self._path.name)
        following = [command for _, command, _ in commands[1:]]
        for (line, command, expected), after in zip(commands, [*following, ""], strict=True):
            place = f"{self._path.name}:{line}: $ {command}"
            status, printed = self._run_command(command, block.terminal)
            if status != 0 and after != "echo $?":
                raise PageError(f"{place}: exit code {status}; it printed:\n{printed}")
            if expected and not prints_as_shown(normalised(expected), normalised(printed)):
                raise PageError(
                    f"{place}: prints something else than the page shows:\n{_difference(expected, printed)}"
                )

    def _run_command(self, command: str, answer: str | None) -> tuple[int, str]:
        """Run one command in the state that the previous command left; return its exit status and its output."""
        arguments = plain_arguments(command) if can_fork(self._variables) else None
        if answer is not None:
            if arguments is None:
                ended = run_in_terminal(["bash", "-c", command], environment=self._variables, answer=answer)
            else:
                ended = run_on_terminal(arguments, folder=Path.cwd(), environment=self._variables, answer=answer)
            self._status, _ = ended
            return ended
        if arguments is not None:
            forked = run_forked(
                arguments,
                folder=Path.cwd(),
                environment=self._variables,
                merged=True,
                timeout_s=HANG_S,
            )
            self._status = forked.code
            return forked.code, forked.out.decode()
        left = self._folder / ".left"
        script = f'(exit {self._status})\n{command}\nstatus=$?\n(pwd; env -0) > "{left}"\nexit $status'
        done = subprocess.run(
            ["bash", "-c", script],
            env=self._variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=HANG_S,
            check=False,
            text=True,
        )
        self._status = done.returncode
        if left.exists():
            folder, _, variables = left.read_text(encoding="utf-8").partition("\n")
            os.chdir(folder)
            self._variables = dict(each.split("=", 1) for each in variables.split("\0") if "=" in each)
            left.unlink()
        return done.returncode, done.stdout

    def _start(self, block: Block, background: ExitStack) -> None:
        """Start a command that runs until the page ends, and wait until it has printed the page's output."""
        commands = _commands(block, self._path.name)
        if block.language != "console" or len(commands) != 1 or not commands[0][2]:
            raise PageError(
                f"{self._path.name}:{block.line}: what runs in the background is one command of a console block, "
                f"with what it prints when it is ready"
            )
        line, command, expected = commands[0]
        place = f"{self._path.name}:{line}: $ {command}"
        process = background.enter_context(_interrupted(command, self._variables, place))
        assert process.stdout is not None
        printed = ""
        while not prints_as_shown(normalised(expected), normalised(printed)):
            more = process.stdout.readline()
            if not more:
                raise PageError(
                    f"{place}: ended without printing what the page shows:\n{_difference(expected, printed)}"
                )
            printed += more

    def _environment(self) -> dict[str, str]:
        """Return the environment variables that a reader has after activating the virtual environment."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AMENDS_", "TEMPORAL_", "PYTEST_", "XDG_")) and name != "COLUMNS"
        }
        path = os.pathsep.join([sysconfig.get_path("scripts"), kept.get("PATH", os.defpath)])
        return kept | {"PATH": path, "HOME": str(self._folder), "NO_COLOR": "1", "TERM": "dumb"}

    def _forget_modules(self) -> None:
        """Remove the modules that were imported from the page's folder."""
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(f"{self._folder}{os.sep}"):
                del sys.modules[name]


def plain_arguments(command: str) -> list[str] | None:
    """Return the arguments of a call of `amends` from which a shell would only split words; otherwise return None."""
    command = _CONTINUED.sub(lambda found: found["quoted"] or " ", command)
    unquoted = _QUOTED.sub("", command)
    if not command.startswith("amends ") or set(unquoted) & set("()<>|&;$`*?[]{}~!\\#\n\"'"):
        return None
    return shlex.split(command)[1:]


@contextmanager
def _interrupted(command: str, variables: Mapping[str, str], place: str) -> Iterator[subprocess.Popen[str] | Running]:
    """Run a command in the background; at the end press Ctrl-C, and check that it ends well."""
    arguments = plain_arguments(command)
    process: subprocess.Popen[str] | Running
    if arguments is not None and can_fork(variables):
        process = Running(arguments, folder=Path.cwd(), environment=variables)
    else:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    printed = ""
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            if isinstance(process, Running):
                printed = process.read_rest(HANG_S)
            else:
                printed, _ = process.communicate(timeout=HANG_S)
        finally:
            process.kill()
    if process.returncode != 0:
        raise PageError(f"{place}: exit code {process.returncode} after Ctrl-C; it printed:\n{printed}")


def _difference(shown: str, printed: str) -> str:
    """Compare line by line."""
    lines: Iterable[str] = difflib.unified_diff(
        normalised(shown).splitlines(), normalised(printed).splitlines(), "shown", "printed", lineterm=""
    )
    return "\n".join(lines)


def _commands(block: Block, name: str) -> list[tuple[int, str, str]]:
    """Split a console block into line, command and the output that the page shows for it."""
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


def normalised(text: str) -> str:
    """Replace the parts that differ whenever a page runs: times, ports, process ids and the widths of columns."""
    for pattern, name in _VARYING:
        text = pattern.sub(name, text)
    return text


def prints_as_shown(shown: str, printed: str) -> bool:
    """Compare output with the page; `...` stands for any text in its line, alone on a line for any lines."""
    pattern = ""
    for line in shown.strip().splitlines():
        if line.strip() == "...":
            pattern += r"(?:[^\n]*\n)*?"
        else:
            pattern += "[^\n]*".join(map(re.escape, line.rstrip().split("..."))) + r"[ \t]*\n"
    return re.fullmatch(pattern, printed.strip("\n") + "\n") is not None
