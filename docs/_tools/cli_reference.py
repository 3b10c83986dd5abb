"""Write the reference of the command line from the commands themselves.

`python docs/_tools/cli_reference.py` writes the page; a test compares it with the generated text.
"""

# ruff: noqa: INP001 - a program, not a package

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from amends.cli.app import DEBUG, app

__all__ = ["PAGE", "commands", "reference"]

PAGE = Path(__file__).parents[1] / "reference" / "cli.md"

TEXT = """\
# Command line

<!-- Written by docs/_tools/cli_reference.py from the commands themselves; do not edit. -->

This page is for you if you look up a command or an option. Every command has `--help`, or `-h`. Write the options of
`amends` itself before the command: `amends -C shop list`. Answers go to stdout, remarks and errors to stderr, each
error in one line that begins with `amends: `. With `--json` stdout is valid JSON and nothing else; times in it are
milliseconds since the epoch.

On a terminal, answers fit its width. In a pipe or a file a row is a line, and no line is cut, unless
`COLUMNS` names a width. `NO_COLOR` turns colours off. Characters that cannot be printed appear as Python writes them,
such as `\\x1b`. `{debug}=1` adds the traceback to the error that ends a command.

The meaning of each exit code is on the page [Exit codes](exit-codes.md), and every setting on the page
[Settings](settings.md).

{commands}"""


def reference() -> str:
    """Return the text of the page."""
    return TEXT.format(commands="\n".join(_sections()), debug=DEBUG)


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command with its whole name, a group before its commands."""
    root = typer.main.get_command(app)
    yield "amends", root
    yield from _below("amends", root)


def _below(name: str, group: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - Typer's own class of it is private
    for each in group.list_commands(None):
        command = group.get_command(None, each)
        yield f"{name} {each}", command
        if hasattr(command, "list_commands"):
            yield from _below(f"{name} {each}", command)


def _sections() -> Iterator[str]:
    for name, command in commands():
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
        group = hasattr(command, "list_commands")
        usage = [name, *(_argument(each) for each in arguments), *(["COMMAND"] if group else [])]
        if options:
            usage.insert(1, "[OPTIONS]")
        yield f"## {name}\n\n```text\n{' '.join(usage)}\n```\n\n{inspect.cleandoc(command.help or '')}\n"
        if arguments:
            yield _table("argument", [(_argument(each), _meaning(each)) for each in arguments])
        if options:
            yield _table("option", [(_option(each), _meaning(each)) for each in options])
        if group:
            yield _table("command", [(each, _first_line(name, command, each)) for each in command.list_commands(None)])


def _first_line(name: str, group: Any, command: str) -> str:  # noqa: ANN401 - as above
    found = inspect.cleandoc(group.get_command(None, command).help or "").partition("\n")[0]
    return f"{found} See [{name} {command}](#{name.replace(' ', '-')}-{command})."


def _argument(parameter: Any) -> str:  # noqa: ANN401 - as above
    shown = str(parameter.metavar or parameter.name)
    return shown if parameter.required or shown.startswith("[") else f"[{shown}]"


def _option(parameter: Any) -> str:  # noqa: ANN401 - as above
    value = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
    return ", ".join(sorted(parameter.opts, key=len)) + value


def _meaning(parameter: Any) -> str:  # noqa: ANN401 - as above
    default = parameter.default
    flag = getattr(parameter, "is_flag", False)
    shown = not (flag or default is None or default == Path()) and parameter.show_default is True
    return (parameter.help or "") + (f" Default: `{default}`." if shown else "")


def _table(heading: str, rows: list[tuple[str, str]]) -> str:
    lines = [f"| {heading} | meaning |", "|---|---|"]
    for name, meaning in rows:
        escaped = meaning.replace("|", "\\|").replace("<", "&lt;")
        code = name.replace("|", "\\|")
        lines.append(f"| `{code}` | {' '.join(escaped.split())} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
