"""Types a session at the command line, and shows it: `make demo`.

A dozen orders go through a real Temporal server; some fail at different steps, and one loses the reply of a payment
after the money was taken. Payment, shipping, and `amends dev` with its server are processes of their own. Then a bank
carries out transfers, somebody changes its books behind the system's back, and that is found and put on our own books.
What the session leaves in both examples' `.amends` stays to be looked at, until the next one starts afresh.

Everything that is started here is stopped here, by its own process id, however the session ends.
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

from amends.sagas.temporal.embedded_server import dev_running, running

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
    ("o-07", "stock and money are taken, but nobody carries to Atlantis; both are given back"),
)
ACCOUNTS = ("--open", "alice=100.00", "--open", "bob=20.00", "--open", "carol=0.00")
DAMAGE = ("--amount", "t-01=25.00", "--forget", "t-02", "--invent", "carol=99.00")
DRIFT_ID = re.compile(r"\b[0-9a-f]{12}\.\d+\b")
TRY_NEXT = (
    (HERE, "list --where sku=lamp", "the orders of one article"),
    (HERE, "catalog", "every step, and how it is undone"),
    (TRANSFER, "reconciliations", "every look for drift, and what came of it"),
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
    """A terminal in an example's folder: says what is typed, types it, and shows what it answers.

    Args:
        console: Where it is shown.
        interrupts: Requests to stop.

    Attributes:
        folder: Where things are typed.
        environment: What is exported there.
    """

    def __init__(self, console: Console, interrupts: Interrupts) -> None:
        self._console = console
        self._interrupts = interrupts
        self._started: list[subprocess.Popen[str]] = []
        self.folder = HERE
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

    def amends_said(self, line: str, *, status: int = 0) -> str:
        """Run a command to its end as `amends` does, and give what it said beside showing it.

        Raises:
            DemoError: It had another exit status than that, or did not end.
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
        """Stop whatever still runs, the last one first."""
        for process in reversed(self._started):
            _stop(process)

    @contextmanager
    def service(self, typed: str, name: str, module: str, *options: str) -> Iterator[ServiceProcess]:
        """Run a service in the background, where the sagas find it.

        Args:
            typed: What runs its module, such as `python -m services.payment`.
            name: What its variable and folder are called.
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
    """Remove what an earlier demo left.

    Raises:
        DemoError: Somebody works with it.
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
    """Have orders done and undone."""
    with ExitStack() as stack:
        session.remark(
            "Payment and shipping are somebody else's: services behind HTTP, with logs of their own.",
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
            ("Exit status 4: some were compensated, that is, whatever they had done was undone.", "list"),
            *((f"{run_id}: {why}.", f"history {run_id}") for run_id, why in HISTORIES),
            ("After all of that record and world agree, no stock is held for an order that is over.", "drift"),
        )


def reconcile_transfers(session: Session) -> None:
    """Have the bank's books differ from ours, and put that right."""
    with session.service("python bank.py", "bank", "bank", *ACCOUNTS) as bank:
        session.amends("run transfer-money @transfers.jsonl --id-field transfer_id", status=4)
        session.remark(
            "While the bank is down somebody changes its books: one amount, a transfer that is forgotten, and one",
            "that nobody has ordered. No saga fails, nobody is told.",
        )
        session.prompt("kill %?bank")
        bank.stop()
        session.python("tamper.py", "--data", f"{DATA}/bank", *DAMAGE)
        session.prompt(f"python bank.py --data {DATA}/bank --port {bank.base_url.rpartition(':')[2]} &")
        bank.restart()
        session.remark("Drift: the rule bank-log compares the log with our ledger. Exit status 1 says: found some.")
        session.amends("drift", status=1)
        session.remark("It is about money, so the rule only proposes. The drifts are recorded, and wait for approval.")
        found = DRIFT_ID.findall(session.amends_said("reconcile bank-log", status=1))
        approvals = " ".join(f"--approve {drift}" for drift in dict.fromkeys(found))
        session.remark("Somebody has asked the bank and approves: the differences go on our books, as open items.")
        session.amends(f"reconcile bank-log {approvals} --reason 'asked the bank'")
        session.amends_each(
            ("What that look saw and did: each correction names what it wrote.", "reconciliation bank-log:2"),
            ("The corrective event, which names the fact that caused it.", "history OpenItem/t-01"),
            ("From here on our books and the bank's agree.", "drift"),
        )


def suggest(console: Console) -> None:
    """End with what to try next; it needs nothing that was stopped."""
    console.print("\nTry next:", markup=False)
    lines = [
        (f"{os.path.relpath(AMENDS)} --project {os.path.relpath(folder)} {line}", why) for folder, line, why in TRY_NEXT
    ]
    longest = max(len(line) for line, _ in lines)
    for line, why in lines:
        console.print(f"  {line:{longest}}  # {why}", markup=False)


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
