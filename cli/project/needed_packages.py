"""The top-level packages that Amends needs, from the metadata of what is installed.

Reading takes tens of milliseconds, so a caller asks only about a name that a project and an installed package share.
A requirement that is not installed, because it is for another platform or an extra that nobody chose, provides nothing.
"""

import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError

__all__ = ["needed_packages"]

_ROOT = "amends"
# `psycopg[binary]>=3.2; extra == "postgresql"`: the name, the extras that it asks for, and the extra that asks for it.
_REQUIREMENT = re.compile(r"""([\w.-]+)\s*(?:\[([^\]]*)\])?(?:.*\bextra\s*==\s*["']([^"']+)["'])?""")


@cache
def needed_packages() -> frozenset[str]:
    """Return the names under which Amends, its optional drivers and all of their requirements are imported."""
    wanted: list[tuple[str, str | None]] = [(_ROOT, None), (_ROOT, "postgresql")]
    visited: set[tuple[str, str | None]] = set()
    found = {_ROOT}
    while wanted:
        name, extra = wanted.pop()
        if (name, extra) in visited:
            continue
        visited.add((name, extra))
        try:
            distribution = Distribution.from_name(name)
        except PackageNotFoundError:
            continue
        if extra is None:
            found.update(_top_level(distribution))
        wanted += _requirements(distribution, extra)
    return frozenset(found)


def _requirements(distribution: Distribution, extra: str | None) -> Iterator[tuple[str, str | None]]:
    for text in distribution.requires or ():
        if (match := _REQUIREMENT.match(text)) is None or match[3] != extra:
            continue
        name = re.sub(r"[-_.]+", "-", match[1]).lower()
        yield name, None
        yield from ((name, each.strip()) for each in (match[2] or "").split(",") if each.strip())


def _top_level(distribution: Distribution) -> set[str]:
    # Installers write RECORD, setuptools writes top_level.txt; a distribution that a system installed may lack both.
    # `Distribution.files` would read the same lines into thousands of path objects.
    record = (distribution.read_text("RECORD") or "").splitlines()
    files = [line.partition(",")[0] for line in record]
    tops = {file.partition("/")[0].partition(".")[0] for file in files if file.endswith((".py", ".so", ".pyd"))}
    tops.update((distribution.read_text("top_level.txt") or "").split())
    return {top for top in tops if top.isidentifier()} or {re.sub(r"[-.]+", "_", distribution.name)}
