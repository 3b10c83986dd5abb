"""Conventions of this repository that no other tool checks, as tests over its files."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from repository import (
    FACADE,
    LAYERS,
    ROOT,
    is_facade,
    module_name,
    over,
    package_files,
    python_files,
    repository_files,
    shipped_files,
)

MAX_LINES = 500
MAX_MODULES = 20

# A module does I/O only if one of these is a part of its dotted name, or if it belongs to the command line. The
# contract of `make layers` names the same parts.
IO_PARTS = frozenset({"files", "kafka", "nats", "sql", "temporal", "runtime", "testing"})
PURE_IN_CLI = "views"
# Third parties that a pure module may use: they describe values.
PURE_THIRD_PARTIES = (
    "eventsourcing.domain",
    "eventsourcing.persistence",
    "eventsourcing.utils",
    "pydantic",
    "pydantic_core",
    # Renderables are values; only a console prints.
    "rich.cells",
    "rich.console.Group",
    "rich.console.RenderableType",
    "rich.padding",
    "rich.table",
    "rich.text",
)
# Names within otherwise pure modules that read a clock or random numbers, or do I/O.
IO_NAMES = frozenset({"urllib.request", "uuid.uuid1", "uuid.uuid4", "uuid.getnode"})
IO_METHODS = {"datetime": {"now", "utcnow", "today"}, "date": {"today"}, "uuid": {"uuid1", "uuid4", "getnode"}}
IO_BUILTINS = frozenset({"__import__", "breakpoint", "eval", "exec", "input", "open", "print"})


def does_io(module: str) -> bool:
    """Return whether a dotted name marks the module, or a package around it, as one that does I/O."""
    parts = module.split(".")
    return not IO_PARTS.isdisjoint(parts) or (parts[1:2] == ["cli"] and parts[2:3] != [PURE_IN_CLI])


def pure_files() -> list[Path]:
    """List the modules that must do no I/O."""
    return [path for path in package_files() if not is_facade(path) and not does_io(module_name(path))]


@cache
@cache
def parse(path: Path) -> ast.Module:
    """Parse a file of the repository."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))


def imports(tree: ast.Module) -> Iterator[tuple[int, str, str | None]]:
    """Yield line, module and name of each import at any depth; the name is None where a module is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, module, alias.name) for alias in node.names)


def impure_import(module: str, name: str | None) -> str | None:
    """Return the reason why a pure module may not import this, or None where it may.

    `make layers` checks imports of Amends' own modules and of whole modules of the standard library.
    """
    full = module if name is None else f"{module}.{name}"
    if {full, module} & IO_NAMES:
        return "reads a clock or random numbers, or does I/O"
    top = module.partition(".")[0]
    if top in {"amends", "typing_extensions"} or top in sys.stdlib_module_names:
        return None
    if any(full == pure or full.startswith(f"{pure}.") for pure in PURE_THIRD_PARTIES):
        return None
    return "is not among the packages that a pure module may use"


def impure_calls(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and name of each call that reads a clock or random numbers, or does I/O, without an import."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in IO_BUILTINS:
            yield node.lineno, called.id
        if isinstance(called, ast.Attribute):
            owner = ast.unparse(called.value).rpartition(".")[2]
            if called.attr in IO_METHODS.get(owner, set()):
                yield node.lineno, f"{owner}.{called.attr}"


@over(pure_files)
def test_a_module_outside_of_an_io_folder_is_pure(path: Path) -> None:
    """A module whose name promises no I/O calls nothing that does any, and imports only pure parts of packages."""
    tree = parse(path)
    found = [
        f"{path}:{line}: {module if name is None else f'{module}.{name}'} {why}"
        for line, module, name in imports(tree)
        if (why := impure_import(module, name))
    ]
    found += [f"{path}:{line}: {name}() in a pure module" for line, name in impure_calls(tree)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("urllib.request", "urlopen"),
        ("uuid", "uuid4"),
        ("sqlalchemy", "select"),
        ("temporalio", "workflow"),
        ("eventsourcing", "sqlite"),
        ("eventsourcing.sqlite", None),
        ("rich.console", "Console"),
    ],
)
def test_the_purity_check_refuses_io(module: str, name: str | None) -> None:
    """Names and parts of packages that reach I/O are recognised by their import."""
    assert impure_import(module, name)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("hashlib", None),
        ("urllib.parse", "quote"),
        ("uuid", "uuid5"),
        ("collections.abc", "Iterator"),
        ("pydantic", "BaseModel"),
        ("typing_extensions", "TypeIs"),
        ("eventsourcing.domain", "BaseAggregate"),
        ("eventsourcing.persistence", "StoredEvent"),
        ("amends.aggregates.journal", "Journal"),
    ],
)
def test_the_purity_check_allows_values(module: str, name: str | None) -> None:
    """A pure module may import modules that only describe values."""
    assert impure_import(module, name) is None


def test_layers_and_purity_check_agree_about_io() -> None:
    """The contract about imports forbids exactly the I/O parts that this file knows, and lets exactly them do I/O."""
    contracts = project_settings()["tool"]["importlinter"]["contracts"]
    (contract,) = (each for each in contracts if each["name"].endswith("imports no I/O"))
    own = [module for module in contract["forbidden_modules"] if module.startswith("amends")]
    expected = {f"amends.**.{part}{below}" for part in IO_PARTS for below in ("", ".**")}
    assert {module for module in own if not module.startswith("amends.cli")} == expected
    ignored = {line.removesuffix(" -> **") for line in contract["ignore_imports"] if line.endswith(" -> **")}
    assert ignored == {*own, "amends.pytest_plugin", "amends.testing"}
    assert all(does_io(module) for module in own if "**" not in module)


@over(package_files)
def test_the_package_never_imports_its_facade(path: Path) -> None:
    """Inside the package each name is imported from the module that defines it, so that the facade makes no cycles."""
    layers = {*LAYERS, "testing"}
    found = [
        f"{path}:{line}: imports {name or module} from the facade"
        for line, module, name in imports(parse(path))
        if module == "amends" and name not in layers
    ]
    assert not found, "\n".join(found)


@over(package_files)
def test_every_module_says_what_it_exports(path: Path) -> None:
    """A public module has an `__all__`, and everything in it exists and is public."""
    if (path.name.startswith("_") and path.name != "__init__.py") or "migrations" in path.parts:
        return  # Private, or read by Alembic, which expects fixed names.
    body = parse(path).body
    if all(is_text(node) for node in body):
        return  # A package that holds nothing but its description.
    assert any(isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__" for node in body), (
        f"{path}: has no __all__; list the names that other modules may use"
    )
    module = importlib.import_module(module_name(path))
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert not missing, f"{path}: __all__ names {missing}, which the module does not define"
    private = [name for name in module.__all__ if name.startswith("_") and not name.endswith("__")]
    assert not private, f"{path}: __all__ names {private}, which are private"


def is_text(node: ast.stmt) -> bool:
    """Return whether a statement is nothing but text."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@over(python_files)
def test_no_file_is_too_long_to_read(path: Path) -> None:
    """No Python file is longer than a reader can read at once."""
    lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{path}: {lines} lines; split it (at most {MAX_LINES})"


@over(lambda: sorted({path.parent for path in python_files()}))
def test_no_folder_is_too_full_to_survey(path: Path) -> None:
    """No folder holds more modules than a reader can survey."""
    modules = [each.name for each in python_files() if each.parent == path and each.name != "__init__.py"]
    assert len(modules) <= MAX_MODULES, f"{path}: {len(modules)} modules; make subfolders (at most {MAX_MODULES})"


@over(lambda: [path for path in python_files() if path.name.startswith("test_")])
def test_every_test_names_its_property(path: Path) -> None:
    """Each test function begins with one sentence that names its property."""
    found = []
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            summary = (ast.get_docstring(node) or "").partition("\n\n")[0].strip()
            if not summary.endswith("."):
                found.append(
                    f"{path}:{node.lineno}: {node.name} needs a docstring: one sentence, the property it proves"
                )
    assert not found, "\n".join(found)


def text_files() -> list[Path]:
    """List the files of the repository that are text."""
    return [path for path in repository_files() if b"\0" not in (ROOT / path).read_bytes()[:8192]]


# The parts are joined here, so that this file does not contain the text that it searches for.
FORBIDDEN_TEXT = re.compile(
    "|".join(
        (
            "py" + r"pi\.org",
            "python" + r"hosted\.",
            "registry" + r"\.npm",
            "deb" + r"\.debian",
            r"(?<![\w.~})-])/(?:home|root|Users|work|farm|private/var|opt/[a-z]+)/",
        )
    )
)


@over(text_files)
def test_no_line_names_a_registry_or_a_place_on_one_machine(path: Path) -> None:
    """The repository works anywhere: it names no package registry's host and no absolute path of one machine."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    found = [
        f"{path}:{number}: {line.strip()[:120]}" for number, line in enumerate(lines, 1) if FORBIDDEN_TEXT.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("see https://py" + "pi.org/p/x", True),
        ("--index-url https://files.python" + "hosted.org", True),
        ("cd /home" + "/ann/amends", True),
        ("'/Users" + "/ann'", True),
        ("docs/work/notes.md", False),
        ("https://example.com/home/page", False),
        ("$HOME/work/x", False),
    ],
)
def test_the_text_check_tells_places_apart(line: str, refused: bool) -> None:  # noqa: FBT001 - a table's column
    """The check finds hosts of registries and absolute paths, and passes relative paths and other hosts."""
    assert bool(FORBIDDEN_TEXT.search(line)) is refused


def test_no_lock_file_is_kept() -> None:
    """Versions are pinned by hash in `requirements/`; lock files would add the addresses of their downloads."""
    locks = {"Pipfile.lock", "package-lock.json", "pdm.lock", "poetry.lock", "pylock.toml", "uv.lock", "yarn.lock"}
    assert not [path for path in repository_files() if path.name in locks]


def pins() -> dict[str, Requirement]:
    """Read the pinned requirements by their names."""
    text = (ROOT / "requirements/dev.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    parsed = {}
    for line in lines:
        assert "--hash=sha256:" in line, f"{line}: not pinned by hash; run `make pins`"
        requirement = Requirement(line.partition("--hash")[0].strip())
        assert [one.operator for one in requirement.specifier] == ["=="], f"{line}: not pinned; run `make pins`"
        parsed[requirement.name] = requirement
    return parsed


def test_pins_fit_what_the_project_asks_for() -> None:
    """Every dependency, optional ones and the build backend included, is pinned to a version that it allows."""
    project = project_settings()
    wanted = [
        *project["project"]["dependencies"],
        *(each for extra in project["project"]["optional-dependencies"].values() for each in extra),
        *project["build-system"]["requires"],
        *(
            line.partition(" #")[0]
            for line in (ROOT / "requirements/dev.in").read_text(encoding="utf-8").splitlines()
            if line and not line.startswith("#")
        ),
    ]
    pinned = pins()
    for requirement in map(Requirement, wanted):
        assert requirement.name in pinned, f"{requirement}: not pinned; run `make pins`"
        (pin,) = pinned[requirement.name].specifier
        assert requirement.specifier.contains(pin.version), f"{requirement}: pinned to {pin}; run `make pins`"


def project_settings() -> dict[str, Any]:
    """Read pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_layer_is_linked_into_the_package() -> None:
    """`src/amends` links to the folder of every layer, so that packaging and type checkers see one tree."""
    links = {path.name: path.resolve() for path in (ROOT / FACADE).iterdir() if path.is_symlink()}
    assert links == {layer: ROOT / layer for layer in LAYERS}


def test_wheel_and_sdist_hold_the_package_alone(tmp_path: Path) -> None:
    """A wheel, built from a checkout or from the sdist, holds every shipped file and no other top-level name."""
    source, shipped = tmp_path / "source", shipped_files()
    for path in [*shipped, Path("pyproject.toml"), Path("README.md")]:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, source / path)
    for layer in LAYERS:
        (source / FACADE / layer).symlink_to(Path("../..", layer))
    sdist = build_sdist(source, tmp_path)
    expected = {f"amends/{path.relative_to(FACADE) if is_facade(path) else path}" for path in shipped}
    for origin in (source, sdist):
        assert wheel_files(origin, tmp_path / f"from-{origin.name}") == expected


def build_sdist(source: Path, target: Path) -> Path:
    """Build the source distribution of a checkout, and return its file."""
    build = "import sys; from setuptools.build_meta import build_sdist; print(build_sdist(sys.argv[1]))"
    run = [sys.executable, "-P", "-c", build, str(target)]
    subprocess.run(run, cwd=source, check=True, capture_output=True)
    (sdist,) = target.glob("*.tar.gz")
    return sdist


def wheel_files(origin: Path, target: Path) -> set[str]:
    """Build a wheel from a checkout or a source distribution, and list its files without the metadata."""
    subprocess.run(
        [sys.executable, *("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", target, origin)],
        check=True,
    )
    (wheel,) = target.glob("*.whl")
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_ci_runs_what_people_run() -> None:
    """CI does nothing but `make test`, so that a change that passes it passes CI."""
    script = ROOT / ".ci/run"
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert lines == ["set -euo pipefail", 'cd "$(dirname "${BASH_SOURCE[0]}")/.."', "make test"]
    assert script.stat().st_mode & 0o111, ".ci/run is not executable"


@over(python_files)
def test_every_python_file_is_type_checked(path: Path) -> None:
    """`make types` reaches every Python file; the Makefile names these places and no others are used."""
    covered = (
        path in package_files()
        or (path.parts[0] == "examples" and len(path.parts) > 2)
        or path.parts[0] in {"tests", "benchmarks"}
        or path == Path("docs/conf.py")
        or path.parts[:2] == ("docs", "_tools")
    )
    assert covered, f"{path}: `make types` would miss it; add its place to the Makefile and here"
