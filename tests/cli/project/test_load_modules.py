"""Test the loading of a project's modules: imports, names that must not be hidden, and one line for each fault."""

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from bounds import HANG_S

from amends.aggregates.errors import DefinitionError
from amends.cli.project import load_modules as project_module
from amends.cli.project.load_modules import LoadedProject, collect, find, load_modules
from amends.cli.project.settings import load_settings


class Thing:
    """An object that a module defines, as a saga is."""

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.fixture(autouse=True)
def clean_interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo the imports of a test, and its changes to the import path."""
    for name in list(os.environ):
        if name.upper().startswith("AMENDS_"):
            monkeypatch.delenv(name)
    # Other tests of this process may have imported a `shop` of their own.
    for name in [each for each in sys.modules if each.partition(".")[0] in {"shop", "later"}]:
        monkeypatch.delitem(sys.modules, name)
    path, finders, before = list(sys.path), list(sys.meta_path), set(sys.modules)
    yield
    sys.path[:], sys.meta_path[:] = path, finders
    for name in set(sys.modules) - before:
        del sys.modules[name]
    importlib.invalidate_caches()


def write(directory: Path, **files: str) -> None:
    """Write modules by their dotted names, with `__` for the dot, and each missing `__init__.py`."""
    for name, text in files.items():
        path = directory.joinpath(*name.split("__")).with_suffix(".py")
        for parent in path.relative_to(directory).parents[:-1]:
            (directory / parent).mkdir(exist_ok=True)
            (directory / parent / "__init__.py").touch()
        path.write_text(textwrap.dedent(text))


def load(directory: Path, *modules: str) -> LoadedProject:
    """Load modules of a project in this process."""
    (directory / "amends.toml").write_text(f"modules = {json.dumps(modules)}")
    return load_modules(load_settings(directory))


def refusal(directory: Path, *modules: str) -> str:
    """Return the message that refuses the modules, which is one line, with the project's directory as `DIR`."""
    with pytest.raises(DefinitionError) as raised:
        load(directory, *modules)
    message = str(raised.value)
    assert message.isprintable()
    return message.replace(str(directory), "DIR")


def run(directory: Path, code: str, *, modules: str, start: str = "-P", **more: str) -> tuple[str, str]:
    """Load modules in a new interpreter, then run code on the loaded `project`.

    `-P` starts as the installed command does, without the current directory on the path; `-s` with it.
    """
    loading = """
        import importlib.util, json, os, sys
        from pathlib import Path
        from amends.cli.project.load_modules import load_modules
        from amends.cli.project.settings import load_settings
        project = load_modules(load_settings())
    """
    done = subprocess.run(
        [sys.executable, start, "-c", textwrap.dedent(loading) + textwrap.dedent(code)],
        cwd=directory,
        # Output is buffered, as it is by default.
        env=os.environ | {"AMENDS_MODULES": modules, "PYTHONUNBUFFERED": ""} | more,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


# ---- Imports


def test_modules_are_imported_from_the_project_and_from_src(tmp_path: Path) -> None:
    """Modules are found in the project's directory and in its src/, in the configured order."""
    write(tmp_path, shop__sagas="from billing.steps import VALUE", tools="")
    (tmp_path / "src").mkdir()
    write(tmp_path / "src", billing__steps="VALUE = 7")
    loaded = load(tmp_path, "shop.sagas", "tools", "billing.steps")
    assert [module.__name__ for module in loaded.modules] == ["shop.sagas", "tools", "billing.steps"]
    assert vars(loaded.modules[0])["VALUE"] == 7
    assert loaded.project_dir == tmp_path
    assert loaded.hidden == ()


def test_src_that_is_a_package_is_imported_as_one(tmp_path: Path) -> None:
    """A src/ with an __init__.py is the package `src`; its modules do not appear under a second name."""
    write(tmp_path, src__sagas="")
    assert load(tmp_path, "src.sagas").modules[0].__name__ == "src.sagas"
    assert str(tmp_path / "src") not in sys.path


def test_the_project_stands_between_the_standard_library_and_installed_packages(tmp_path: Path) -> None:
    """The project comes once on the path, after the library and before installed packages, wherever it stood before."""
    write(tmp_path, shop="")
    sys.path[:0] = [str(tmp_path), f"{tmp_path}/."]
    load(tmp_path, "shop")
    load(tmp_path, "shop")
    at = sys.path.index(str(tmp_path))
    assert [os.path.realpath(entry) for entry in sys.path].count(str(tmp_path.resolve())) == 1
    assert sys.path.index(str(Path(os.__file__).parent)) < at
    assert at < min(i for i, entry in enumerate(sys.path) if entry.endswith("site-packages"))
    assert sum(isinstance(finder, project_module._OurPackages) for finder in sys.meta_path) == 1


@pytest.mark.parametrize(
    ("start", "names"),
    [
        ("-P", ("calendar", "json", "wave")),
        # The current directory comes first here: modules that Python loaded before Amends cannot be replaced.
        ("-s", ("colorsys", "wave")),
    ],
)
@pytest.mark.parametrize("on_pythonpath", [False, True])
def test_a_project_cannot_shadow_the_standard_library(
    tmp_path: Path, start: str, names: tuple[str, ...], *, on_pythonpath: bool
) -> None:
    """A project's wave.py replaces the library's neither for the project nor for Amends, and is reported as hidden."""
    if on_pythonpath:
        names = ("colorsys", "wave")
    write(tmp_path, shop=f"import {', '.join(names)}", **dict.fromkeys(names, "raise RuntimeError"))
    code = f"""
        for name in {names!r}:
            assert Path(sys.modules[name].__file__).is_relative_to(Path(os.__file__).parent), name
        print([path.name for path in project.hidden])
    """
    more = {"PYTHONPATH": str(tmp_path)} if on_pythonpath else {}
    out, err = run(tmp_path, code, modules="shop", start=start, **more)
    assert (out, err) == (f"{[f'{name}.py' for name in names]}\n", "")


def test_a_project_may_have_packages_named_like_our_folders(tmp_path: Path) -> None:
    """A project's own sagas/ and cli.py stay its own, and those of Amends stay separate."""
    write(tmp_path, sagas__orders="from cli import MINE", cli="MINE = 'theirs'", aggregates="")
    code = """
        import amends.cli, amends.sagas, cli, sagas
        assert project.modules[0].MINE == "theirs"
        assert Path(cli.__file__).parent == Path(sagas.__file__).parent.parent == Path.cwd()
        assert amends.sagas is not sagas and Path.cwd() not in Path(amends.cli.__file__).parents
    """
    assert run(tmp_path, code, modules="sagas.orders,aggregates") == ("", "")


def test_a_project_cannot_hide_the_packages_that_we_need(tmp_path: Path) -> None:
    """A project's alembic/ does not disturb a migration of the schema after its modules were loaded."""
    write(tmp_path, shop="", alembic__env="", temporalio="raise RuntimeError", sqlalchemy="raise RuntimeError")
    code = """
        import alembic.config, sqlalchemy, temporalio
        print([path.name for path in project.hidden])
    """
    assert run(tmp_path, code, modules="shop") == ("['alembic', 'sqlalchemy.py', 'temporalio.py']\n", "")


def test_a_project_may_have_a_package_that_only_others_need(tmp_path: Path) -> None:
    """A project's own module comes before an installed package that Amends does not need."""
    write(tmp_path, shop="import hypothesis\nassert hypothesis.MINE", hypothesis="MINE = True")
    assert run(tmp_path, "print(project.hidden)", modules="shop") == ("()\n", "")


def test_functions_may_import_later(tmp_path: Path) -> None:
    """The project stays importable after loading, for imports within its functions."""
    write(tmp_path, shop="def step():\n    import later\n    return later.VALUE", later="VALUE = 3")
    assert load(tmp_path, "shop").modules[0].step() == 3


# ---- Refusals


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "import no_such_package.api",
            (
                "DIR/shop/sagas.py:1: ModuleNotFoundError: No module named 'no_such_package'; "
                f"correct the import, or install what it needs into {sys.prefix}"
            ),
        ),
        (
            "\nfrom shop.models import Order",
            (
                "DIR/shop/sagas.py:2: ImportError: cannot import name 'Order' from 'shop.models' (DIR/shop/models.py); "
                f"correct the import, or install what it needs into {sys.prefix}"
            ),
        ),
        (
            "from calendar import holidays",
            (
                f"DIR/shop/sagas.py:1: ImportError: cannot import name 'holidays' from 'calendar' "
                f"({sys.modules['calendar'].__file__}); rename DIR/calendar.py: another module of that name comes first"
            ),
        ),
        ("import shop.broken", "DIR/shop/broken.py:3: SyntaxError: '(' was never closed; correct it there"),
        ("x = (", "DIR/shop/sagas.py:1: SyntaxError: '(' was never closed; correct it there"),
        ("if True:\nx", "DIR/shop/sagas.py:2: IndentationError: expected an indented block"),
        ("eval('1 +')", "DIR/shop/sagas.py:1: SyntaxError: invalid syntax; correct it there"),
        (
            "import sys\nsys.exit('bye\\n')",
            "DIR/shop/sagas.py:2: it exits with sys.exit('bye\\n'); move that below: if __name__ == '__main__':",
        ),
        (
            "raise SystemExit",
            "DIR/shop/sagas.py:1: it exits with sys.exit(None); move that below: if __name__ == '__main__':",
        ),
        (
            "import json\njson.loads('{')",
            (
                "DIR/shop/sagas.py:2: JSONDecodeError: Expecting property name enclosed in double quotes: line 1 "
                "column 2 (char 1); a module must be importable without that"
            ),
        ),
        ("assert 1 == 2", "DIR/shop/sagas.py:1: AssertionError"),
        ("raise ValueError('a\\n\\x1b[31mb' + 'c' * 999)", "DIR/shop/sagas.py:1: ValueError: a ?[31mbccc"),
        (
            "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
            "DIR/shop/sagas.py:3: E: its message cannot be shown; a module must be importable without that",
        ),
        ("class E(BaseException): pass\nraise E", "DIR/shop/sagas.py:2: E; a module must be importable without that"),
        (
            "from amends import DefinitionError\nraise DefinitionError('step x has no undo; add one')",
            "DIR/shop/sagas.py:2: step x has no undo; add one",
        ),
        ("def f(): f()\nf()", "DIR/shop/sagas.py:1: RecursionError: maximum recursion depth exceeded"),
        ("import shop.sagas2", "DIR/shop/sagas.py:1: ModuleNotFoundError: No module named 'shop.sagas2'; correct"),
        ("'\\x00'".replace("\\x00", "\x00"), "cannot contain null bytes"),
    ],
)
def test_a_module_that_fails_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    """Each fault names the module, the line of the project that it comes from, and the remedy."""
    write(tmp_path, shop__models="", shop__broken="\n\nx = (", calendar="")
    (tmp_path / "shop" / "sagas.py").write_text(text)
    message = refusal(tmp_path, "shop.sagas")
    assert message.startswith("module 'shop.sagas' cannot be imported: ")
    assert expected in message
    assert len(message) < 600


def test_a_module_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """For a missing module, a missing part of a package or a module used as a package the message names the folders."""
    write(tmp_path, shop__sagas="", plain="")
    (tmp_path / "src").mkdir()
    where = "neither in DIR or DIR/src nor among the installed packages; correct modules in DIR/amends.toml"
    assert refusal(tmp_path, "shpo") == f"module 'shpo' was not found (No module named 'shpo'), {where}"
    assert refusal(tmp_path, "shop.x") == f"module 'shop.x' was not found (No module named 'shop.x'), {where}"
    assert refusal(tmp_path, "plain.x") == (
        f"module 'plain.x' was not found (No module named 'plain.x'; 'plain' is not a package), {where}"
    )


def test_a_module_missing_in_a_library_names_the_line_of_the_project(tmp_path: Path) -> None:
    """For a fault in an installed package, the place is the project's line that called it, also in a .venv inside."""
    library = tmp_path / ".venv" / "site-packages"
    library.mkdir(parents=True)
    write(library, lib="def f():\n    raise OSError('no network')")
    write(tmp_path, shop="import lib\n\nlib.f()")
    sys.path.append(str(library))
    assert "DIR/shop.py:3: OSError: no network;" in refusal(tmp_path, "shop")


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("calendar", "a module of Python's standard library"),
        ("json.tool", "a module of Python's standard library"),
        ("__main__", "a module of Python's standard library"),
        ("alembic.sagas", "a package that Amends itself needs"),
        ("amends.mine", "a package that Amends itself needs"),
    ],
)
def test_a_taken_name_is_refused(tmp_path: Path, name: str, owner: str) -> None:
    """A configured module that another one hides is refused; the other one is not loaded silently."""
    write(tmp_path, **{name.replace(".", "__") if "__" not in name else "x": ""})
    assert refusal(tmp_path, name) == (
        f"module {name!r} cannot be loaded: its first name belongs to {owner}, which Python finds first; "
        "rename your module and correct modules in DIR/amends.toml"
    )


def test_no_modules_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message for a project without modules names the place to configure them."""
    assert 'no modules are configured: add modules = ["your_package.sagas"] to DIR/amends.toml, ' in refusal(tmp_path)
    (tmp_path / "amends.toml").unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DefinitionError, match=r"to amends\.toml \(there is none in .* or above\), set AMENDS_MODULES"):
        load_modules(load_settings())


def test_the_message_names_the_variable_that_configured_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the environment names the modules, the message names the variable to correct."""
    monkeypatch.setenv("AMENDS_MODULES", "shpo")
    assert refusal(tmp_path, "shop").endswith("correct modules in AMENDS_MODULES")


def test_an_interrupt_is_not_a_fault_of_the_module(tmp_path: Path) -> None:
    """Ctrl-C during a slow import interrupts the command."""
    write(tmp_path, shop="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path, "shop")


# ---- Output


def test_what_modules_print_is_not_on_stdout(tmp_path: Path) -> None:
    """Prints, writes past Python's redirection and child processes end on stderr; afterwards stdout is restored."""
    write(
        tmp_path,
        shop="""
            import logging, os, subprocess, sys
            print("printed")
            sys.__stdout__.write("written\\n")
            os.write(1, b"raw\\n")
            subprocess.run([sys.executable, "-S", "-c", "print('child')"])
            logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))
        """,
    )
    code = """
        import logging
        logging.error("logged")
        print(json.dumps({"ok": True}))
    """
    out, err = run(tmp_path, code, modules="shop")
    assert out == '{"ok": true}\n'
    assert sorted(err.split()) == ["child", "logged", "printed", "raw", "written"]


def test_modules_load_without_open_output(tmp_path: Path) -> None:
    """A command started without stdout, as a service may be, loads its modules all the same."""
    write(tmp_path, shop="print('lost')")
    (tmp_path / "amends.toml").write_text('modules = ["shop"]')
    script = (
        "from amends.cli.project.load_modules import load_modules;"
        "from amends.cli.project.settings import load_settings;"
        "load_modules(load_settings())"
    )
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&- 2>&-', "sh", sys.executable, "-P", "-c", script],
        cwd=tmp_path,
        check=False,
        timeout=HANG_S,
    )
    assert done.returncode == 0


# ---- Collecting


def module(name: str, **attributes: object) -> ModuleType:
    """Create a module without a file."""
    made = ModuleType(name)
    vars(made).update(attributes)
    return made


def test_objects_are_collected_by_name(tmp_path: Path) -> None:
    """Objects are found by kind in the order of definition; one that two modules share counts once."""
    first, second = Thing("first"), Thing("second")
    modules = [module("a", two=second, number=1, kind=Thing), module("b", again=second, one=first)]
    assert collect(modules, Thing) == {"second": second, "first": first}
    loaded = LoadedProject(tmp_path, tuple(modules), ())
    assert list(loaded.collect(Thing)) == ["second", "first"]
    assert loaded.find(Thing) == (second, first)


def test_variants_that_share_a_name_are_all_found() -> None:
    """Objects are not collected by name: a step and its variant for another saga are two objects of one name."""
    step, variant = Thing("same"), Thing("same")
    assert find([module("a", step=step, variant=variant, again=step)], Thing) == {"a.step": step, "a.variant": variant}


def test_a_name_used_twice_is_refused() -> None:
    """Two different objects of one name are refused with both places, even if they compare equal."""
    modules = [module("a", one=Thing("same")), module("b", other=Thing("same"))]
    with pytest.raises(DefinitionError) as raised:
        collect(modules, Thing)
    assert str(raised.value) == "thing name 'same' is used twice, by a.one and by b.other; give each its own"


def test_collecting_asks_foreign_objects_nothing() -> None:
    """A lazy proxy among a module's attributes is not touched: a question for its class could open a connection."""

    def fail(_self: object) -> None:
        raise RuntimeError

    proxy = type("Proxy", (), {"__class__": property(fail)})()
    assert collect([module("a", proxy=proxy)], Thing) == {}
