"""Type a session at the command line, and show it: `make demo`.

A dozen orders go through a real Temporal server; some fail at different steps, and one loses the reply of a payment
after the money was taken. Payment, shipping, and `amends dev` with its server are processes of their own. Then a bank
carries out transfers, and somebody changes its books behind the system's back; a drift rule finds that, and the
corrections go on our own books. The data of both examples stays in their `.amends` until the next session removes it.

The session stops every process that it started, by its process id, however it ends.
"""

import os
import re
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

from amends.sagas.temporal.server.embedded_server import running
from amends.sagas.temporal.server.locks import dev_running

HERE = Path(__file__).resolve().parent
TRANSFER = HERE.parent / "transfer"
DATA = ".amends"
AMENDS = Path(sysconfig.get_path("scripts")) / "amends"
LOSE_A_REPLY = '{"kind": "lose_reply", "op": "charge", "key_prefix": "o-05/"}'
PIPE_COLUMNS = "100"
COMMAND_BOUND_S = 60
STOP_BOUND_S = 15
HISTORIES = (
    ("o-01", "everything went well"),
    ("o-03", "the card is declined; nothing was paid, and the lamp is free again"),
    ("o-05", "the money is taken, but the reply is lost; the same key again, and it is taken once"),
    ("o-07", "stock and money are taken, but no carrier serves Atlantis; both are returned"),
)
ACCOUNTS = ("--open", "alice=100.00", "--open", "bob=20.00", "--open", "carol=0.00")
DAMAGE = ("--amount", "t-01=25.00", "--forget", "t-02", "--invent", "carol=99.00")
DRIFT_ID = re.compile(r"\b[0-9a-f]{12}\.\d+\b")
TRY_NEXT = (
    (HERE, "list --where sku=lamp", "the orders of one article"),
    (HERE, "catalog", "every step, and how it is undone"),
    (TRANSFER, "reconciliations", "every scan for drift, and its consequences"),
)


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

    Attributes:
        folder: Where things are typed.
        environment: The exported variables.
    """

    def __init__(self, console: Console, interrupts: Interrupts) -> None:
        self._console = console
        self._interrupts = interrupts
        self._started: list[subprocess.Popen[str]] = []
        self.folder = HERE
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
                raise DemoError(f"amends dev: ended before it was ready: {said[-1] if said else 'it printed nothing'}")
            # Nobody reads its output from here on, but a full pipe would block it.
            Thread(target=said.extend, args=(lines,), daemon=True).start()
            yield
        finally:
            _stop(process)

    def _start(self, line: str, stdout: int | None) -> subprocess.Popen[str]:
        """Start a command; in a process group of its own, so that Ctrl-C reaches it once, through this process."""
        with self._interrupts.held():
            process = subprocess.Popen(  # noqa: S603 - our own program
                [AMENDS, *shlex.split(line)],
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
    def service(self, typed: str, name: str, module: str, *options: str) -> Iterator[ServiceProcess]:
        """Run a service in the background, where the sagas find it.

        Args:
            typed: The command that runs its module, such as `python -m services.payment`.
            name: The name of its variable and its folder.
            module: The module.
            options: Further options.

        Raises:
            ServiceProcessError: It did not start.
        """
        self.prompt(f"{typed} {shlex.join(['--data', f'{DATA}/{name}', *options])} &")
        with ServiceProcess(module, self.folder / DATA / name, *options, project=self.folder) as service:
            self.answer(f"listening on {service.base_url}")
            variable = f"{name.upper()}_URL"
            self.prompt(f"export {variable}={service.base_url}")
            self.environment[variable] = service.base_url
            yield service

    def python(self, *words: str) -> None:
        """Run a script of the example.

        Raises:
            DemoError: It failed.
        """
        self.prompt(shlex.join(["python", *words]))
        done = subprocess.run([sys.executable, *words], cwd=self.folder, capture_output=True, text=True, check=False)  # noqa: S603 - our own script
        if done.returncode:
            raise DemoError(f"{words[0]}: {done.stderr.strip()}")
        self.answer(done.stdout.rstrip())


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
    """Remove the data of an earlier demo.

    Raises:
        DemoError: A process still uses the data.
    """
    for folder in (HERE, TRANSFER):
        data = folder / DATA
        if data.exists() and dev_running(data):
            raise DemoError(f"an `amends dev` runs in {folder}: stop it first, the demo starts afresh there")
        if (server := running(data)) is not None:
            raise DemoError(f"the Temporal server {server.pid} uses {data}: stop it first (kill {server.pid})")
    session.prompt(f"cd examples/orders && rm -rf {DATA} ../transfer/{DATA}")
    for folder in (HERE, TRANSFER):
        shutil.rmtree(folder / DATA, ignore_errors=True)


def play(session: Session) -> None:
    """Type the whole session."""
    start_afresh(session)
    place_orders(session)
    session.remark("Another example: money goes from account to account, at a bank with a log of its own.")
    session.prompt("cd ../transfer")
    session.folder = TRANSFER
    reconcile_transfers(session)
    session.remark("All of it is stopped now; the facts stay in both examples' .amends until the next demo.")


def place_orders(session: Session) -> None:
    """Run orders, and let some of them be undone."""
    with ExitStack() as stack:
        session.remark(
            "Payment and shipping are other companies: services behind HTTP, each with its own log.",
            "Payment will take the money of order o-05, and then lose its reply, on purpose.",
        )
        python = "python -m services."
        stack.enter_context(session.service(f"{python}payment", "payment", "services.payment", "--fault", LOSE_A_REPLY))
        stack.enter_context(session.service(f"{python}shipping", "shipping", "services.shipping"))
        session.remark("A real Temporal server, and a worker that drives the sagas of storefront.py.")
        stack.enter_context(session.dev())
        session.remark("Three deliveries fill the warehouse; then come the orders of the day.")
        session.amends("run stock-up @deliveries.jsonl --id-field sku")
        session.amends("run place-order @orders.jsonl --id-field order_id", status=4)
        session.amends_each(
            ("Exit code 4: some were compensated, that is, their effects were undone.", "list"),
            *((f"{run_id}: {why}.", f"history {run_id}") for run_id, why in HISTORIES),
            ("After all of that record and world agree, no stock is held for an order that is over.", "drift"),
        )


def reconcile_transfers(session: Session) -> None:
    """Let the bank's books differ from ours, and correct that."""
    with session.service("python bank.py", "bank", "bank", *ACCOUNTS) as bank:
        session.amends("run transfer-money @transfers.jsonl --id-field transfer_id", status=4)
        session.remark(
            "While the bank is down somebody changes its books: one amount, a transfer that is deleted, and one",
            "that nobody ordered. No saga fails, and nobody notices.",
        )
        session.prompt("kill %?bank")
        bank.stop()
        session.python("tamper.py", "--data", f"{DATA}/bank", *DAMAGE)
        session.prompt(f"python bank.py --data {DATA}/bank --port {bank.base_url.rpartition(':')[2]} &")
        bank.restart()
        session.remark("Drift: the rule bank-log compares the log with our ledger. Exit code 1: it found some.")
        session.amends("drift", status=1)
        session.remark("It is about money, so the rule only proposes. The drifts are recorded, and wait for approval.")
        found = DRIFT_ID.findall(session.amends_said("reconcile bank-log", status=1))
        approvals = " ".join(f"--approve {drift}" for drift in dict.fromkeys(found))
        session.remark("Somebody has asked the bank and approves: the differences go on our books, as open items.")
        session.amends(f"reconcile bank-log {approvals} --reason 'asked the bank'")
        session.amends_each(
            ("The facts of that scan: each correction names the event that it wrote.", "reconciliation bank-log:2"),
            ("The corrective event, which names the fact that caused it.", "history OpenItem/t-01"),
            ("From here on our books and the bank's agree.", "drift"),
        )


def suggest(console: Console) -> None:
    """Print commands to try next; they need no process that was stopped."""
    console.print("\nTry next:", markup=False)
    lines = [
        (f"{os.path.relpath(AMENDS)} --project {os.path.relpath(folder)} {line}", why) for folder, line, why in TRY_NEXT
    ]
    longest = max(len(line) for line, _ in lines)
    for line, why in lines:
        console.print(f"  {line:{longest}}  # {why}", markup=False)


def main() -> int:
    """Play the session, and print one line if that fails."""
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
        print("demo: interrupted; every process that it started has stopped", file=sys.stderr)
        return 130
    suggest(console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
