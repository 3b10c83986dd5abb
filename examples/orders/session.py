"""A terminal session that a demo types: it shows each command, runs it, and shows its output.

Every process that a session starts ends with it, by its process id, however the session ends.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Thread
from types import FrameType

from rich.console import Console
from services.process import ServiceProcess, ServiceProcessError

from amends.sagas.temporal.server.embedded_server import running
from amends.sagas.temporal.server.locks import dev_running

__all__ = ["DATA", "DemoError", "Session", "run_session", "start_afresh"]

DATA = ".amends"
AMENDS = Path(sysconfig.get_path("scripts")) / "amends"
PIPE_COLUMNS = "100"
COMMAND_BOUND_S = 60
STOP_BOUND_S = 15


class Interrupts:
    """End the session on a request to stop, but not during the start of a process, which would then run on."""

    def __init__(self) -> None:
        self._held = False
        self._came = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        if not self._held:
            raise KeyboardInterrupt
        self._came = True

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep them until the end of the block.

        Raises:
            KeyboardInterrupt: One came meanwhile.
        """
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._came:
            raise KeyboardInterrupt


class DemoError(Exception):
    """The demo cannot continue; the message is complete."""


class Session:
    """A terminal in an example's folder: shows each command, runs it, and shows its output.

    Args:
        console: Where it is shown.
        interrupts: Requests to stop.
        folder: Where things are typed first.

    Attributes:
        folder: Where things are typed.
        environment: The exported variables.
    """

    def __init__(self, console: Console, interrupts: Interrupts, folder: Path) -> None:
        self._console = console
        self._interrupts = interrupts
        self._started: list[subprocess.Popen[str]] = []
        self.folder = folder
        # The configuration of other projects would change the demo.
        own = {name: text for name, text in os.environ.items() if not name.startswith(("AMENDS_", "TEMPORAL_"))}
        if console.is_terminal:
            # Also for output that reaches the terminal through this process.
            own |= {"COLUMNS": str(console.width), "FORCE_COLOR": "1"}
        self.environment = {"COLUMNS": PIPE_COLUMNS, **own}

    def remark(self, *lines: str) -> None:
        """Print a remark on the next command."""
        self._console.print(*("", *(f"# {line}" for line in lines)), sep="\n", style="cyan", markup=False)

    def prompt(self, line: str) -> None:
        """Print a command after a prompt."""
        self._console.print(f"$ {line}", style="bold", markup=False)

    def answer(self, line: str) -> None:
        """Print a line of a process in the background."""
        self._console.print(line, markup=False)

    def amends(self, line: str, *, status: int = 0) -> None:
        """Run a command to its end.

        Args:
            line: The words after `amends`.
            status: The exit code that it must have.

        Raises:
            DemoError: It had another one, or did not end.
        """
        self.prompt(f"amends {line}")
        process = self._start(line, None)
        try:
            code = process.wait(COMMAND_BOUND_S)
        except subprocess.TimeoutExpired:
            raise DemoError(f"amends {line}: no end within {COMMAND_BOUND_S} s") from None
        finally:
            _stop(process)
        if code != status:
            raise DemoError(f"amends {line}: ended with exit status {code}, where {status} was expected")

    def amends_said(self, line: str, *, status: int = 0) -> str:
        """Run a command to its end as `amends` does, show its output, and return it.

        Raises:
            DemoError: It had another exit code, or did not end.
        """
        self.prompt(f"amends {line}")
        process = self._start(line, subprocess.PIPE)
        try:
            said, _ = process.communicate(timeout=COMMAND_BOUND_S)
        except subprocess.TimeoutExpired:
            raise DemoError(f"amends {line}: no end within {COMMAND_BOUND_S} s") from None
        finally:
            _stop(process)
        sys.stdout.write(said)
        if process.returncode != status:
            raise DemoError(f"amends {line}: ended with exit status {process.returncode}, where {status} was expected")
        return said

    def amends_each(self, *lines: tuple[str, str]) -> None:
        """Run commands that only read side by side, which takes half the time, and show them one after the other.

        Args:
            lines: The remark before each, and the words after `amends`.

        Raises:
            DemoError: One had another exit code than 0, or did not end.
        """
        started = [(remark, line, self._start(line, subprocess.PIPE)) for remark, line in lines]
        try:
            for remark, line, process in started:
                self.remark(remark)
                self.prompt(f"amends {line}")
                said, _ = process.communicate(timeout=COMMAND_BOUND_S)
                sys.stdout.write(said)
                if process.returncode:
                    raise DemoError(f"amends {line}: ended with exit status {process.returncode}")
        except subprocess.TimeoutExpired:
            raise DemoError(f"amends {line}: no end within {COMMAND_BOUND_S} s") from None
        finally:
            for _, _, process in started:
                _stop(process)

    @contextmanager
    def dev(self) -> Iterator[subprocess.Popen[str]]:
        """Run `amends dev` in the background, from when it is ready; yield its process.

        Raises:
            DemoError: It ended before.
        """
        self.prompt("amends dev &")
        process = self._start("dev", subprocess.PIPE)
        lines = iter(process.stdout or ())
        said: deque[str] = deque(maxlen=1)
        try:
            for line in lines:
                said.append(line.strip())
                if line.startswith("Ready"):
                    break
                self.answer(line.rstrip())
            else:
                raise DemoError(f"amends dev: ended before it was ready: {said[-1] if said else 'it printed nothing'}")
            # Nobody reads its output from here on, but a full pipe would block it.
            Thread(target=said.extend, args=(lines,), daemon=True).start()
            yield process
        finally:
            _stop(process)

    def _start(self, line: str, stdout: int | None) -> subprocess.Popen[str]:
        """Start a command of `amends`."""
        return self._launch([AMENDS, *shlex.split(line)], stdout)

    def _launch(self, words: Sequence[str | Path], stdout: int | None) -> subprocess.Popen[str]:
        """Start a process; in a process group of its own, so that Ctrl-C reaches it once, through this process."""
        with self._interrupts.held():
            process = subprocess.Popen(  # noqa: S603 - our own program
                words,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stdout and subprocess.STDOUT,
                text=True,
                process_group=0,
            )
            self._started.append(process)
        return process

    def close(self) -> None:
        """Stop every process that still runs, the last one first."""
        for process in reversed(self._started):
            _stop(process)

    @contextmanager
    def service(
        self, typed: str, name: str, module: str, *options: str, scheme: str = "http"
    ) -> Iterator[ServiceProcess]:
        """Run a service in the background, where the sagas find it.

        Args:
            typed: The command that runs its module, such as `python -m services.payment`.
            name: The name of its variable and its folder.
            module: The module.
            options: Further options.
            scheme: The scheme of its address.

        Raises:
            ServiceProcessError: It did not start.
        """
        self.prompt(f"{typed} {shlex.join(['--data', f'{DATA}/{name}', *options])} &")
        with ServiceProcess(module, self.folder / DATA / name, *options, project=self.folder) as service:
            url = f"{scheme}://{service.base_url.partition('://')[2]}"
            self.answer(f"listening on {url}")
            variable = f"{name.upper()}_URL"
            self.prompt(f"export {variable}={url}")
            self.environment[variable] = url
            yield service

    def python(self, *words: str, status: int = 0) -> None:
        """Run a script of the example.

        Args:
            words: The script and its arguments.
            status: The exit code that it must have.

        Raises:
            DemoError: It had another one, or did not end.
        """
        self.prompt(shlex.join(["python", *words]))
        self._show(words[0], self._launch([sys.executable, *words], subprocess.PIPE), status)

    @contextmanager
    def script(self, *words: str) -> Iterator[None]:
        """Run a script of the example in the background; at the end, wait for it and show its output.

        Raises:
            DemoError: It failed, or did not end.
        """
        self.prompt(f"{shlex.join(['python', *words])} &")
        process = self._launch([sys.executable, *words], subprocess.PIPE)
        try:
            yield
            self._show(words[0], process, 0)
        finally:
            _stop(process)

    def _show(self, name: str, process: subprocess.Popen[str], status: int) -> None:
        try:
            said, _ = process.communicate(timeout=COMMAND_BOUND_S)
        except subprocess.TimeoutExpired:
            raise DemoError(f"{name}: no end within {COMMAND_BOUND_S} s") from None
        finally:
            _stop(process)
        if process.returncode != status:
            raise DemoError(f"{name}: {said.strip()}")
        self.answer(said.rstrip())


def _stop(process: subprocess.Popen[str]) -> None:
    """Ask a process to end unless it has, and kill it when it does not."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_BOUND_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start_afresh(session: Session, *folders: Path) -> None:
    """Remove the data of an earlier demo.

    Args:
        session: The session; it is in the first of the folders.
        folders: The folders of the examples.

    Raises:
        DemoError: A process still uses the data.
    """
    for folder in folders:
        data = folder / DATA
        if data.exists() and dev_running(data):
            raise DemoError(f"an `amends dev` runs in {folder}: stop it first, the demo starts afresh there")
        if (server := running(data)) is not None:
            raise DemoError(f"the Temporal server {server.pid} uses {data}: stop it first (kill {server.pid})")
    others = "".join(f" ../{folder.name}/{DATA}" for folder in folders[1:])
    session.prompt(f"cd examples/{folders[0].name} && rm -rf {DATA}{others}")
    for folder in folders:
        shutil.rmtree(folder / DATA, ignore_errors=True)


def suggest(console: Console, lines: Sequence[tuple[Path, str, str]]) -> None:
    """Print commands to try next; they need no process that was stopped.

    Args:
        console: Where they are printed.
        lines: Folder, words after `amends`, and a remark of each.
    """
    console.print("\nTry next:", markup=False)
    shown = [
        (f"{os.path.relpath(AMENDS)} --project {os.path.relpath(folder)} {line}", why) for folder, line, why in lines
    ]
    longest = max(len(line) for line, _ in shown)
    for line, why in shown:
        console.print(f"  {line:{longest}}  # {why}", markup=False)


def run_session(folder: Path, play: Callable[[Session], None], try_next: Sequence[tuple[Path, str, str]]) -> int:
    """Play a session, and return the exit status; print one line if the session fails.

    Args:
        folder: The folder in which the session begins.
        play: Types the whole session.
        try_next: Commands to suggest at the end; see `suggest`.
    """
    interrupts = Interrupts()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupts)
    console = Console(highlight=False, soft_wrap=True)
    session = Session(console, interrupts, folder)
    try:
        with closing(session):
            play(session)
    except (DemoError, ServiceProcessError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; every process that it started has stopped", file=sys.stderr)
        return 130
    suggest(console, try_next)
    return 0
