"""Projects in temporary directories, in which tests run the program `amends` as a separate process."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bounds import HANG_S
from forked import AMENDS, Running, can_fork, run_forked

from amends.aggregates.journal import RunQuery
from amends.aggregates.run.record import RunSummary
from amends.aggregates.run.state import RunStatus
from amends.aggregates.sql.journal import open_journal

__all__ = ["AMENDS", "CommandProject", "Ended", "Started", "shop_at"]


RAW = (
    "panicked at",
    "Fatal Python error",
    "was never awaited",
    "never retrieved",
    "Traceback (most recent call last)",
)
"""Beginnings of raw reports of the runtime; no command may print one, however it ends."""


def _check_plain(text: str) -> str:
    found = [line for line in text.splitlines() if any(raw in line for raw in RAW)]
    assert not found, f"a raw report of the runtime reached the screen: {found}\n{text}"
    return text


class Ended(NamedTuple):
    """The result of a command: its exit status and its output."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on stderr."""
        lines = self.err.splitlines()
        assert len(lines) == 1, f"expected one line on stderr, not {len(lines)}:\n{self.err}\n{self.out}"
        assert "Traceback" not in self.err
        return lines[0]


class Started(NamedTuple):
    """A command in the background; its output is stdout and stderr together."""

    process: Running
    lines: list[str]

    def read_until(self, text: str) -> str:
        """Read the output up to a line that contains a text, and return that line."""
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"it ended without saying {text!r}: {''.join(self.lines)}")

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send the process a signal, read the rest of its output, and return its exit status."""
        self.process.send_signal(number)
        self.lines.append(self.process.read_rest(HANG_S))
        _check_plain("".join(self.lines))
        return self.process.wait()


@dataclass
class CommandProject:
    """A project's directory, and an environment that configures nothing but the project."""

    path: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("AMENDS_", "TEMPORAL_"))}
        # Temporal searches the home directory for its own configuration.
        home = str(self.path / "home")
        # Drift rules run on schedule only where a test configures that.
        settled = {"NO_COLOR": "1", "AMENDS_SCHEDULE_RULES": "false"}
        self.environment = {**kept, "HOME": home, "XDG_CONFIG_HOME": home, **settled, **self.environment}

    def write(self, name: str, text: str) -> None:
        """Write a file of the project."""
        (self.path / name).write_text(text)

    def run(
        self,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        stdin: str | bytes = b"",
        prefix: tuple[str, ...] = (),
    ) -> Ended:
        """Run the program to its end."""
        environment = {**self.environment, **(env or {})}
        given = stdin.encode() if isinstance(stdin, str) else stdin
        if not prefix and can_fork(environment):
            forked = run_forked(
                list(map(str, arguments)), folder=self.path, environment=environment, stdin=given, timeout_s=HANG_S
            )
            return Ended(forked.code, forked.out.decode(), _check_plain(forked.err.decode()))
        ended = subprocess.run(
            [*prefix, AMENDS, *arguments],
            cwd=self.path,
            env=environment,
            input=given,
            capture_output=True,
            timeout=HANG_S,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout.decode(), _check_plain(ended.stderr.decode()))

    @contextmanager
    def started(self, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Started]:
        """Start the program, and kill it at the end if it still runs."""
        process = Running(arguments, folder=self.path, environment={**self.environment, **(env or {})})
        try:
            yield Started(process, [])
        finally:
            process.end(HANG_S)

    @property
    def store_url(self) -> str:
        """The default store."""
        return f"sqlite:///{self.path / '.amends' / 'events.db'}"

    def open_runs(self, store_url: str | None = None) -> list[RunSummary]:
        """List the open runs of the store; return an empty list where there is no store."""
        url = store_url or self.store_url
        if not Path(url.removeprefix("sqlite:///")).exists():
            return []
        journal = open_journal(url)
        try:
            return journal.runs_blocking(
                RunQuery(statuses=frozenset({RunStatus.RUNNING, RunStatus.COMPENSATING}), limit=100)
            )
        finally:
            journal.close_blocking()


def shop_at(path: Path, module: str, environment: dict[str, str] | None = None) -> CommandProject:
    """Create a project whose only module, `shop`, has this text."""
    project = CommandProject(path, environment or {})
    project.write("amends.toml", 'modules = ["shop"]\n')
    project.write("shop.py", module)
    return project
