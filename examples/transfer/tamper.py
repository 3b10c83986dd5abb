"""Damage the bank's books without anybody's knowledge, so that there is something to find.

The bank must not be running, because it locks its log. When it starts again it believes its books; nobody else learns
of it.

Run: `python tamper.py --data DIR --amount t-01=25.00 --forget t-02 --invent carol=99.00`
"""

import argparse
import json
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent / "orders"))

from services.line_log import LineLog, LineLogError

__all__ = ["tamper"]

Entry = dict[str, Any]


def tamper(
    data: Path,
    *,
    amounts: Sequence[tuple[str, str]] = (),
    forgotten: Sequence[str] = (),
    invented: Sequence[tuple[str, str]] = (),
) -> list[str]:
    """Change the books of a bank that is not running.

    Args:
        data: The bank's folder.
        amounts: Transfers, and the new amounts of their deposits.
        forgotten: Transfers whose entries disappear.
        invented: Accounts, and deposits to them that nobody has ordered.

    Returns:
        One line for each change.

    Raises:
        LineLogError: The bank is running.
    """
    log = LineLog(data / "ledger.jsonl")
    with closing(log):
        entries: list[Entry] = [json.loads(line) for line in log.lines]
        done = []
        for transfer, amount in amounts:
            for entry in entries:
                if entry["key"].startswith(f"{transfer}/deposit") and "effect" in entry:
                    done.append(f"{transfer}: its deposit of {entry['effect']['amount']} is one of {amount}")
                    entry["effect"]["amount"] = entry["request"]["amount"] = amount
        for transfer in forgotten:
            kept = [entry for entry in entries if not entry["key"].startswith(f"{transfer}/")]
            done.append(f"{transfer}: {len(entries) - len(kept)} entries are gone")
            entries = kept
        for number, (account, amount) in enumerate(invented, 1):
            effect = {"type": "deposited", "account": account, "amount": amount}
            body = {"account": account, "amount": amount}
            key = f"wire-{number}"
            entries.append({"key": key, "op": "deposit", "outcome": "applied", "request": body, "effect": effect})
            done.append(f"{key}: a deposit of {amount} to {account}")
        _write(data, [{**entry, "sequence": number} for number, entry in enumerate(entries, 1)])
        return done


def _write(data: Path, entries: Sequence[Entry]) -> None:
    """Replace books and log; the answers of deleted keys disappear with them."""
    lines = [json.dumps(entry, separators=(",", ":")) for entry in entries]
    with closing(sqlite3.connect(data / "books.db")) as books, books:
        books.execute("DELETE FROM entries")
        books.executemany("INSERT INTO entries (sequence, entry) VALUES (?, ?)", list(enumerate(lines, 1)))
        marks = ",".join("?" * len(entries))
        books.execute(f"DELETE FROM amends_inbox WHERE key NOT IN ({marks})", [entry["key"] for entry in entries])  # noqa: S608 - only marks
    (data / "ledger.jsonl").write_text("".join(f"{line}\n" for line in lines))


def _pair(text: str) -> tuple[str, str]:
    name, equals, amount = text.partition("=")
    if not (name and equals and amount):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=AMOUNT, such as t-01=25.00")
    return name, amount


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Damage the books of a bank that is not running.")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the bank's books")
    parser.add_argument("--amount", type=_pair, action="append", default=[], metavar="TRANSFER=AMOUNT")
    parser.add_argument("--forget", action="append", default=[], metavar="TRANSFER")
    parser.add_argument("--invent", type=_pair, action="append", default=[], metavar="ACCOUNT=AMOUNT")
    options = parser.parse_args()
    if not (options.data / "books.db").exists():
        raise SystemExit(f"tamper: there are no books of a bank in {options.data}: name its --data folder")
    try:
        done = tamper(options.data, amounts=options.amount, forgotten=options.forget, invented=options.invent)
    except (LineLogError, OSError, sqlite3.Error) as error:
        raise SystemExit(f"tamper: {error}") from error
    print("\n".join(done))


if __name__ == "__main__":
    main()
