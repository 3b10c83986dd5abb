"""Runs the program `amends` in a process of its own that is forked where everything is imported already.

Importing takes a command most of its time, and the tests run some hundred of them. How the program starts by itself is
seen wherever a test starts one in the background.
"""

import functools
import json
import multiprocessing
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from amends.cli.app import COMMANDS

__all__ = ["AMENDS", "Forked", "can_fork", "run_forked"]

AMENDS = Path(sysconfig.get_path("scripts")) / "amends"

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [*sorted({each.module for each in COMMANDS}), "httpx", "temporalio.worker", "sqlalchemy.dialects.sqlite", "psycopg"]
)


class Forked(NamedTuple):
    """What a command left behind: its exit status, and what it wrote to its two outputs."""

    code: int
    out: bytes
    err: bytes


def can_fork(environment: Mapping[str, str]) -> bool:
    """Tell whether an environment leaves alone what Python reads when it starts."""
    early = {name for name in {*environment, *os.environ} if name.startswith(("PYTHON", "LANG", "LC_", "LD_"))}
    return all(environment.get(name) == os.environ.get(name) for name in early)


def run_forked(
    arguments: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    stdin: bytes = b"",
    merged: bool = False,
    timeout_s: float,
) -> Forked:
    """Run the program to its end.

    Args:
        arguments: What follows its name.
        folder: Where it is run.
        environment: Its whole environment, one that `can_fork` agrees to.
        stdin: Its input.
        merged: Whether both outputs are one.
        timeout_s: A bound that guards against hangs, in seconds.

    Raises:
        subprocess.TimeoutExpired: It did not end by itself, and was killed.
    """
    with tempfile.TemporaryDirectory(prefix="amends-run-") as name:
        ends = Path(name)
        (ends / "in").write_bytes(stdin)
        for out in ("out",) if merged else ("out", "err"):
            (ends / out).touch()
        process = _CONTEXT.Process(
            target=_be_the_program, args=(list(arguments), folder, dict(environment), ends, _fresh_path())
        )
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([AMENDS, *arguments], timeout_s, (ends / "out").read_bytes())
        return Forked(process.exitcode, (ends / "out").read_bytes(), b"" if merged else (ends / "err").read_bytes())


@functools.cache
def _fresh_path() -> list[str]:
    """Ask for the path that the program's interpreter begins with."""
    show = "import json, sys; print(json.dumps(sys.path[1:]))"
    said = subprocess.run([sys.executable, "-c", show], stdout=subprocess.PIPE, check=True).stdout
    return [str(AMENDS.parent), *json.loads(said)]


def _be_the_program(
    arguments: list[str], folder: Path, environment: dict[str, str], ends: Path, path: list[str]
) -> None:
    # Without a file of its own standard error goes where standard output goes.
    for number, name, mode in ((0, "in", "rb"), (1, "out", "wb"), (2, "err", "wb")):
        if (ends / name).exists():
            with (ends / name).open(mode) as file:
                os.dup2(file.fileno(), number)
        else:
            os.dup2(1, number)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = path
    sys.argv = [str(AMENDS), *arguments]
    from amends.cli import main  # noqa: PLC0415 - in the process that becomes the program

    sys.exit(main())
