"""Find the files that a growing file has been rotated to."""

import re
from collections.abc import Callable
from pathlib import Path

__all__ = ["rotated_files"]

# The part of a name that rotation adds: a number or a date.
_ADDED = re.compile(r"[.-][0-9][0-9T_.:-]*")


def rotated_files(path: Path, is_partition: Callable[[Path], bool]) -> list[Path]:
    """Return the files that rotation has made of a file, the oldest first.

    They are in the same folder, and their names have a number or a date after the whole name or before its extension,
    and possibly `.gz`: `a.jsonl.1`, `a.jsonl-20260101.gz`, `a-20260101.jsonl`. Their times of change give the order;
    renaming and compressing keep them.

    Args:
        path: The file; it need not exist at present.
        is_partition: Whether a file is a partition of its own, and so no rotated part of this one.
    """
    times: dict[Path, tuple[int, str]] = {}
    for candidate in path.parent.iterdir():
        if candidate == path or not _is_rotated(path.name, candidate.name) or is_partition(candidate):
            continue
        try:
            times[candidate] = (candidate.stat().st_mtime_ns, candidate.name)
        except FileNotFoundError:
            continue
    # While a file is being compressed, both forms exist, and only the plain one is whole.
    whole = [found for found in times if found.suffix != ".gz" or found.with_suffix("") not in times]
    return sorted(whole, key=lambda found: times[found])


def _is_rotated(name: str, candidate: str) -> bool:
    plain = candidate.removesuffix(".gz")
    if plain.startswith(name):
        return _ADDED.fullmatch(plain.removeprefix(name)) is not None
    stem, dot, extension = name.rpartition(".")
    ending = f"{dot}{extension}"
    if not stem or not plain.startswith(stem) or not plain.endswith(ending):
        return False
    return _ADDED.fullmatch(plain.removeprefix(stem).removesuffix(ending)) is not None
