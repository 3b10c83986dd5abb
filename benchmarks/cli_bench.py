"""The command line: the time of `amends run` apart from its imports and its saga.

Everything is a whole process, from its start to its end, as a shell sees it. `amends dev` runs at the same time, as it
does on a developer's machine, so `amends run` finds a server and a worker.
"""

import asyncio
import json
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from figures import Effort, Row, in_turn, ratios

__all__ = ["cli_rows"]

_PROGRAM = str(Path(sysconfig.get_path("scripts"), "amends"))
_BOUND_S = 60

_SAGA = """
from pydantic import BaseModel

from amends import Saga, UnitOfWork, pivot, transaction


class Nothing(BaseModel):
    pass


@transaction
def do_nothing(_: Nothing, __: UnitOfWork) -> None: ...


trivial = Saga("trivial", Nothing, pivot(do_nothing))
"""

# Runs the command in its own process, and lists the third-party modules that it has imported by then.
_LIST_IMPORTS = """
import json, sys
from amends.cli.app import main
code = main(["run", "trivial", "--json"])
ours = {"amends", "trivial_saga", "__main__", "__mp_main__"}
names = [name for name, module in list(sys.modules.items()) if name.split(".")[0] not in ours]
print(json.dumps(names), file=sys.stderr)
sys.exit(code)
"""

_IMPORT = """
import importlib, sys
for name in sys.argv[1].split(","):
    try:
        importlib.import_module(name)
    except ImportError:
        pass
"""


def _timed(folder: Path, *command: str) -> tuple[float, str]:
    """Run a process to its end; return its seconds and its standard output."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_BOUND_S, check=False)
    took = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:80]} ended with {done.returncode}: {done.stderr[-500:]}")
    return took, done.stdout


@contextmanager
def _amends_dev(folder: Path) -> Iterator[None]:
    """Run `amends dev` until the context is left."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([_PROGRAM, "dev"], cwd=folder, stdout=subprocess.PIPE, stderr=output, text=True)
        try:
            # It says where the server listens when it listens; `amends run` waits for the worker.
            if process.stdout is None or not process.stdout.readline():
                output.seek(0)
                raise RuntimeError(f"amends dev has ended: {output.read()[-500:]}")
            yield
        finally:
            # Not Ctrl-C's signal: a measurement in the background of a script ignores it, and so would its children.
            process.terminate()
            process.communicate(timeout=_BOUND_S)


def _foreign_imports(folder: Path) -> str:
    """List the modules that `amends run` imports and that belong neither to Amends nor to the saga."""
    done = subprocess.run(
        [sys.executable, "-c", _LIST_IMPORTS],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_BOUND_S,
        check=True,
    )
    names: list[str] = json.loads(done.stderr.splitlines()[-1])
    return ",".join(names)


async def cli_rows(folder: Path, effort: Effort) -> list[Row]:
    """Measure every row of this module."""
    project = folder / "project"
    project.mkdir()
    (project / "amends.toml").write_text('modules = ["trivial_saga"]\n')
    (project / "trivial_saga.py").write_text(_SAGA)
    rounds = 2 * effort.rounds  # a process is short, so other load on the machine hits one of them at a time

    async def whole(*command: str) -> float:
        return (await asyncio.to_thread(_timed, project, *command))[0]

    with _amends_dev(project):
        names = _foreign_imports(project)
        around, imports = await in_turn(
            rounds,
            lambda _: asyncio.to_thread(_outside_the_saga, project),
            lambda _: whole(sys.executable, "-c", _IMPORT, names),
        )
    help_, typer = await in_turn(
        rounds, lambda _: whole(_PROGRAM, "--help"), lambda _: whole(sys.executable, "-c", "import typer")
    )
    return [
        Row(
            "`amends run` of one transaction next to `amends dev`: the whole process without the saga's own time",
            f"a process that only imports the {names.count(',') + 1} modules of others that `amends run` has imported "
            "in the end (Temporal's client, SQLAlchemy, pydantic, eventsourcing, Typer and theirs)",
            ratios(around, imports),
            1.5,
            at_least=False,
        ),
        Row("`amends --help`", "a process that only imports Typer", ratios(help_, typer), 1.5, at_least=False),
    ]


def _outside_the_saga(folder: Path) -> float:
    """Run the saga once; return the seconds of the process less those from acceptance to the last fact."""
    took, output = _timed(folder, _PROGRAM, "run", "trivial", "--json")
    run = json.loads(output)
    if run["status"] != "COMPLETED":
        raise RuntimeError(f"the run is {run['status']}: {run['error']}")
    return took - float(run["updated_ms"] - run["started_ms"]) / 1_000
