"""Types a session at the command line, and shows it: `make demo`.

A dozen orders go through a real Temporal server; some fail at different steps, and one loses the reply of a payment
after the money was taken. Payment, shipping, and `amends dev` with its server are processes of their own. What the
session leaves in `.amends` stays to be looked at, until the next one starts afresh.

Everything that is started here is stopped here, by its own process id, however the session ends.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Thread
from types import FrameType

from rich.console import Console
from services.process import ServiceProcess, ServiceProcessError

from amends.sagas.server_temporal import dev_running, running

HERE = Path(__file__).resolve().parent
DATA = HERE / ".amends"
AMENDS = Path(sysconfig.get_path("scripts")) / "amends"
LOSE_A_REPLY = '{"kind": "lose_reply", "op": "charge", "key_prefix": "o-05/"}'
PIPE_COLUMNS = "100"
COMMAND_BOUND_S = 60
STOP_BOUND_S = 15
HISTORIES = (
    ("o-01", "everything went well"),
    ("o-03", "the card is declined; nothing was paid, and the lamp is free again"),
    ("o-05", "the money is taken, but the reply is lost; the same key again, and it is taken once"),
    ("o-07", "stock and money are taken, but nobody carries to Atlantis; both are given back"),
)
TRY_NEXT = (
    ("list --where sku=lamp", "the orders of one article"),
    ("show o-07", "how a run stands, step by step"),
    ("catalog", "every step, and how it is undone"),
)


class Interrupts:
    """End the session when it is asked to stop, but not while a process is being started, which nobody would stop."""

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
    """The demo cannot go on; the message is all that there is to say."""


class Session:
    """A terminal in this folder: says what is typed, types it, and shows what it answers.

    Args:
        console: Where it is shown.
        interrupts: Requests to stop.
    """

    def __init__(self, console: Console, interrupts: Interrupts) -> None:
        self._console = console
        self._interrupts = interrupts
        self._started: list[subprocess.Popen[str]] = []
        # What is configured for other projects is not meant for this one.
        own = {name: text for name, text in os.environ.items() if not name.startswith(("AMENDS_", "TEMPORAL_"))}
        if console.is_terminal:
            # Also for what reaches the terminal by way of us.
            own |= {"COLUMNS": str(console.width), "FORCE_COLOR": "1"}
        self.environment = {"COLUMNS": PIPE_COLUMNS, **own}

    def remark(self, *lines: str) -> None:
        """Say what is going to be seen."""
        self._console.print(*("", *(f"# {line}" for line in lines)), sep="\n", style="cyan", markup=False)

    def prompt(self, line: str) -> None:
        """Show a line that is typed."""
        self._console.print(f"$ {line}", style="bold", markup=False)

    def answer(self, line: str) -> None:
        """Show a line that a process in the background says."""
        self._console.print(line, markup=False)

    def amends(self, line: str, *, status: int = 0) -> None:
        """Run a command to its end.

        Args:
            line: What stands after `amends`.
            status: The exit status that it must have.

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

    def amends_each(self, *lines: tuple[str, str]) -> None:
        """Run commands that only read side by side, which takes half the time, and show them one after the other.

        Args:
            lines: What to say before each, and what stands after `amends`.

        Raises:
            DemoError: One had another exit status than 0, or did not end.
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
    def dev(self) -> Iterator[None]:
        """Run `amends dev` in the background, from when it is ready.

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
                raise DemoError(f"amends dev: ended before it was ready: {said[-1] if said else 'it said nothing'}")
            # Nobody reads what it says from here on, but it must not be kept from saying it.
            Thread(target=said.extend, args=(lines,), daemon=True).start()
            yield
        finally:
            _stop(process)

    def _start(self, line: str, stdout: int | None) -> subprocess.Popen[str]:
        """Start a command; in a process group of its own, so that Ctrl-C reaches it once, by way of us."""
        with self._interrupts.held():
            process = subprocess.Popen(  # noqa: S603 - our own program
                [AMENDS, *shlex.split(line)],
                cwd=HERE,
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
        """Stop whatever still runs, the last one first."""
        for process in reversed(self._started):
            _stop(process)

    @contextmanager
    def service(self, name: str, *options: str) -> Iterator[None]:
        """Run a service in the background, where the sagas find it.

        Raises:
            ServiceProcessError: It did not start.
        """
        typed = shlex.join(["python", "-m", f"services.{name}", "--data", f".amends/{name}", *options])
        self.prompt(f"{typed} &")
        with ServiceProcess(f"services.{name}", DATA / name, *options) as service:
            self.answer(f"listening on {service.base_url}")
            variable = f"{name.upper()}_URL"
            self.prompt(f"export {variable}={service.base_url}")
            self.environment[variable] = service.base_url
            yield


def _stop(process: subprocess.Popen[str]) -> None:
    """Ask a process to end unless it has, and kill it when it does not."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_BOUND_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start_afresh(session: Session) -> None:
    """Remove what an earlier demo left.

    Raises:
        DemoError: Somebody works with it.
    """
    if DATA.exists() and dev_running(DATA):
        raise DemoError(f"an `amends dev` runs in {HERE}: stop it first, the demo starts afresh there")
    if (server := running(DATA)) is not None:
        raise DemoError(f"the Temporal server {server.pid} uses {DATA}: stop it first (kill {server.pid})")
    session.prompt("cd examples/orders && rm -rf .amends")
    shutil.rmtree(DATA, ignore_errors=True)


def play(session: Session) -> None:
    """Type the whole session."""
    start_afresh(session)
    with ExitStack() as stack:
        session.remark(
            "Payment and shipping are somebody else's: services behind HTTP, with logs of their own.",
            "Payment will take the money of order o-05, and then lose its reply, on purpose.",
        )
        stack.enter_context(session.service("payment", "--fault", LOSE_A_REPLY))
        stack.enter_context(session.service("shipping"))
        session.remark("A real Temporal server, and a worker that drives the sagas of storefront.py.")
        stack.enter_context(session.dev())
        session.remark("Three deliveries fill the warehouse; then come the orders of the day.")
        session.amends("run stock-up @deliveries.jsonl --id-field sku")
        session.amends("run place-order @orders.jsonl --id-field order_id", status=4)
        session.amends_each(
            ("Exit status 4: some were compensated, that is, whatever they had done was undone.", "list"),
            *((f"{run_id}: {why}.", f"history {run_id}") for run_id, why in HISTORIES),
        )
    session.remark("All of it is stopped now; the facts stay in examples/orders/.amends until the next demo.")


def suggest(console: Console) -> None:
    """End with what to try next; it needs nothing that was stopped."""
    console.print("\nTry next:", markup=False)
    program = f"{os.path.relpath(AMENDS)} --project {os.path.relpath(HERE)}"
    longest = max(len(line) for line, _ in TRY_NEXT)
    for line, why in TRY_NEXT:
        console.print(f"  {program} {line:{longest}}  # {why}", markup=False)


def main() -> int:
    """Play the session, and say in one line when that fails."""
    interrupts = Interrupts()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupts)
    console = Console(highlight=False, soft_wrap=True)
    session = Session(console, interrupts)
    try:
        with closing(session):
            play(session)
    except (DemoError, ServiceProcessError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; what it had started is stopped", file=sys.stderr)
        return 130
    suggest(console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
