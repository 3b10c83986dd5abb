"""Test settings: their files, their precedence, and one line for each fault."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from amends.aggregates import errors
from amends.aggregates.store_url import mask_store_url, parse_store_url
from amends.cli.project.settings import Settings, load_settings

MARK = "s3cr3t"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings of the caller's own environment."""
    for name in list(os.environ):
        if name.upper().startswith("AMENDS_"):
            monkeypatch.delenv(name)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty directory, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(directory: Path, text: str, name: str = "amends.toml") -> Path:
    """Write a settings file."""
    file = directory / name
    file.write_text(text)
    return file


def refusal(project: Path | None = None) -> str:
    """Return the message that refuses the settings, which is one line."""
    with pytest.raises(errors.InputError) as raised:
        load_settings(project)
    message = str(raised.value)
    assert message.isprintable()
    return message


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("1h30min", 5400), ("0s", 0)])
def test_the_drain_is_a_duration(project: Path, text: str, seconds: int) -> None:
    """A duration is written as in options of the command line, and shown in seconds."""
    write(project, f'drain = "{text}"\n')
    settings = load_settings()
    assert settings.drain == timedelta(seconds=seconds)
    assert settings.shown()["drain"] == f"{seconds}s"


def test_defaults_are_relative_to_the_project(project: Path) -> None:
    """Without any setting, a directory is a project with the documented defaults, which stay inside it."""
    settings = load_settings()
    assert settings.model_dump() == {
        "project_dir": project,
        "config_file": None,
        "modules": (),
        "data_dir": project / ".amends",
        "store_url": f"sqlite:///{project}/.amends/events.db",
        "task_queue": "amends",
        "max_input_bytes": 1_000_000,
        "max_result_bytes": 1_000_000,
        "embedded_port": None,
        "ui_port": None,
        "worker_concurrency": 100,
        "worker_threads": None,
        "drain": None,
        "errors": None,
        "schedule_rules": True,
        "pipelines": {},
    }


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False), ("", True)])
def test_a_switch_of_the_environment_is_written_as_people_write_it(
    project: Path,  # noqa: ARG001 - it is the current directory
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    value: bool,  # noqa: FBT001 - a table's column
) -> None:
    """True and false are read in any case, and no other value is accepted."""
    monkeypatch.setenv("AMENDS_SCHEDULE_RULES", text)
    assert load_settings().schedule_rules is value
    monkeypatch.setenv("AMENDS_SCHEDULE_RULES", "no")
    with pytest.raises(errors.InputError, match="AMENDS_SCHEDULE_RULES: 'no' is refused: it must be true or false"):
        load_settings()


def test_the_nearest_parent_with_settings_is_the_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are found from a subdirectory, past a pyproject.toml without them; paths are relative to their file."""
    file = write(project, '[tool.amends]\nmodules = ["shop.sagas"]\ndata_dir = "var"\n', "pyproject.toml")
    inner = project / "a" / "b"
    inner.mkdir(parents=True)
    write(project / "a", "[tool.ruff]\n", "pyproject.toml")
    monkeypatch.chdir(inner)
    settings = load_settings()
    assert (settings.project_dir, settings.config_file) == (project, file)
    assert settings.modules == ("shop.sagas",)
    assert settings.data_dir == project / "var"


def test_a_named_project_is_taken_as_it_is(project: Path) -> None:
    """With a named directory, neither the current directory nor a parent has an effect."""
    write(project, 'task_queue = "outer"')
    inner = project / "inner"
    inner.mkdir()
    settings = load_settings(Path("inner"))
    assert (settings.project_dir, settings.task_queue) == (inner, "amends")


def test_settings_in_a_directory_that_anybody_can_write_to_are_not_picked_up(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that somebody else may have put into a shared parent is used only when it is named."""
    shared, inner = project / "shared", project / "shared" / "mine"
    inner.mkdir(parents=True)
    shared.chmod(0o1777)
    write(shared, 'task_queue = "theirs"')
    monkeypatch.chdir(inner)
    assert "any user can write" in refusal()
    assert load_settings(shared).task_queue == "theirs"


def test_the_environment_wins(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable overrides its key, lists are written with commas or as JSON, an empty variable counts as unset."""
    write(project, 'modules = ["a"]\ntask_queue = "file"\nembedded_port = 7000\nmax_input_bytes = 5\n')
    monkeypatch.setenv("AMENDS_MODULES", "shop.sagas, shop.more")
    monkeypatch.setenv("AMENDS_EMBEDDED_PORT", "7233")
    monkeypatch.setenv("AMENDS_MAX_RESULT_BYTES", "2_000")
    monkeypatch.setenv("AMENDS_TASK_QUEUE", "")
    monkeypatch.setenv("AMENDS_DATA_DIR", "/var/lib/shop")
    settings = load_settings()
    assert settings.modules == ("shop.sagas", "shop.more")
    assert (settings.embedded_port, settings.max_input_bytes, settings.max_result_bytes) == (7233, 5, 2000)
    assert settings.task_queue == "file"
    assert settings.store_url == "sqlite:////var/lib/shop/events.db"
    monkeypatch.setenv("AMENDS_MODULES", '["json.too"]')
    assert load_settings().modules == ("json.too",)


def test_where_the_project_lies_cannot_be_configured(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's directory is found, never configured: neither a key nor a variable moves it."""
    monkeypatch.setenv("AMENDS_PROJECT_DIR", "/elsewhere")
    assert load_settings().project_dir == project
    write(project, 'project_dir = "/elsewhere"')
    assert "'project_dir' is not a setting" in refusal()


def test_only_misspelt_variables_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable of Amends is refused with the right name; those of a Kubernetes service `amends` are not."""
    monkeypatch.setenv("AMENDS_PORT", "tcp://10.0.0.1:7233")
    monkeypatch.setenv("AMENDS_SERVICE_HOST", "10.0.0.1")
    assert load_settings().project_dir == project
    monkeypatch.setenv("AMENDS_STORE_URI", f"postgresql://u:{MARK}@h/db")
    message = refusal()
    assert (
        message == "environment variable AMENDS_STORE_URI is not a setting; did you mean AMENDS_STORE_URL? Or unset it"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('task_queue = "a"\nstore-url = "sqlite:///x"', "'store-url' is not a setting; did you mean store_url?"),
        (
            "colour = 1",
            (
                "'colour' is not a setting; remove it or choose from data_dir, drain, embedded_port, errors, "
                "max_input_bytes, max_result_bytes, modules, pipelines, schedule_rules, store_url, task_queue, "
                "ui_port, worker_concurrency, worker_threads"
            ),
        ),
        (
            "[tool.amends]",
            "'tool' is not a setting; in amends.toml write settings at the top level, without [tool.amends]",
        ),
        (
            'modules = "shop.sagas"',
            (
                "modules = 'shop.sagas' is refused: it must be a list of dotted module names, such as "
                '["shop.sagas"]; correct it or leave it out'
            ),
        ),
        (
            "modules = [1]",
            (
                'modules = 1 is refused: it must be a list of dotted module names, such as ["shop.sagas"]; '
                "correct it or leave it out"
            ),
        ),
        (
            'modules = ["./shop/sagas.py"]',
            (
                "modules = ['./shop/sagas.py'] is refused: './shop/sagas.py' is not a dotted module name; "
                "write it like 'shop.sagas'"
            ),
        ),
        ('modules = ["a", "a"]', "modules = ['a', 'a'] is refused: 'a' appears twice; remove one"),
        (
            "embedded_port = true",
            "embedded_port = True is refused: it must be a port from 1 to 65535; correct it or leave it out",
        ),
        (
            'embedded_port = "7233"',
            "embedded_port = '7233' is refused: it must be a port from 1 to 65535; correct it or leave it out",
        ),
        ("ui_port = 0", "ui_port = 0 is refused: it must be a port from 1 to 65535; correct it or leave it out"),
        (
            "ui_port = 7000\nembedded_port = 7000",
            "ui_port = 7000 is refused: embedded_port is the same; choose another",
        ),
        (
            "max_input_bytes = 1e6",
            (
                "max_input_bytes = 1000000.0 is refused: it must be a number of bytes from 1 to 1_000_000_000; "
                "correct it or leave it out"
            ),
        ),
        ('drain = "soon"', "drain = 'soon' is refused: drain is 'soon', which is not a duration; write one such as"),
        ("drain = 30", "drain = 30 is refused: it must be a duration from 0s to 1d, such as 30s, 5min or 1h30min"),
        ("schedule_rules = 1", "schedule_rules = 1 is refused: it must be true or false; correct it or leave it out"),
        (
            "worker_concurrency = 0\nmax_result_bytes = 0",
            (
                "max_result_bytes = 0 is refused: it must be a number of bytes from 1 to 1_000_000_000; "
                "correct it or leave it out (1 more wrong)"
            ),
        ),
        (
            'task_queue = "a\\u001bb"',
            (
                r"task_queue = 'a\x1bb' is refused: it must be a name of at most 200 letters, digits and ._:@+=/- "
                "that begins with a letter or digit; correct it or leave it out"
            ),
        ),
        (
            'data_dir = "~/amends"',
            "data_dir = '~/amends' is refused: '~' is not expanded here; write the whole path",
        ),
        ('data_dir = ""', "data_dir = '' is refused: it is not a path; write one that can be printed"),
        ("data_dir = 3", "data_dir = 3 is refused: it must be a path; correct it or leave it out"),
        (
            'data_dir = "what?"',
            (
                "store_url = '{dir}/what' is refused: SQLite takes a plain path, without parameters and without '?'; "
                "write sqlite:///path/to/events.db or postgresql://user:password@host/database"
            ),
        ),
        ("modules = [", "is not valid TOML: Invalid value (at end of document); correct it there"),
        ("x = " + "9" * 5000, "is not valid TOML: Exceeds the limit (4300 digits)"),
        ("x = " + "[" * 5000, "is not valid TOML: "),
    ],
)
def test_a_wrong_setting_is_one_line(project: Path, text: str, expected: str) -> None:
    """Each message names the file, the key, the value and the remedy."""
    file = write(project, text)
    message = refusal()
    assert message.startswith(str(file))
    if "{dir}" in expected:
        # The message shortens long values: only its two ends are the same everywhere.
        assert message.endswith(expected.partition("/what")[2].removeprefix("'"))
    else:
        assert expected in message.removeprefix(f"{file}: ")


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("AMENDS_EMBEDDED_PORT", "80x", "'80x' is refused: it must be a port from 1 to 65535"),
        ("AMENDS_EMBEDDED_PORT", "9" * 5000, "is refused: it must be a port from 1 to 65535"),
        ("AMENDS_MODULES", "shop/sagas.py", "'shop/sagas.py' is not a dotted module name; write it like 'shop.sagas'"),
        ("AMENDS_MODULES", "[oops", "'[oops' is refused: it must be a list of dotted module names"),
        ("amends_data_dir", "~", "'~' is refused: '~' is not expanded here"),
    ],
)
def test_a_wrong_variable_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    """For a wrong value in the environment, the message names the variable, not the file that it overrides."""
    write(project, 'embedded_port = 7000\nmodules = ["a"]')
    monkeypatch.setenv(variable, value)
    message = refusal()
    assert message.startswith(f"environment variable {variable}: ")
    assert expected in message
    assert "amends.toml" not in message


def test_settings_in_both_files_are_refused(project: Path) -> None:
    """Of two files with settings neither wins silently."""
    own = write(project, "")
    other = write(project, "[tool.amends]\n", "pyproject.toml")
    assert refusal() == f"{own} and [tool.amends] in {other} both hold settings; keep one of them"


def test_unreadable_files_are_refused(project: Path) -> None:
    """A file that is a directory, is not text or has no table ends in one line, also pyproject.toml."""
    file = project / "amends.toml"
    file.mkdir()
    assert refusal() == f"{file}: cannot be read (Is a directory); make it a file that you may read"
    file.rmdir()
    file.write_bytes(b'task_queue = "\xff"')
    assert refusal() == f"{file}: byte 15 is not UTF-8; save it as UTF-8"
    file.unlink()
    other = write(project, "[tool]\namends = 3", "pyproject.toml")
    assert refusal() == f"{other}: tool.amends = 3 is not a table; write [tool.amends]"
    write(project, "[tool", "pyproject.toml")
    assert refusal().startswith(f"{other}: is not valid TOML: ")


def test_a_wrong_project_directory_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is missing, is a file, or has been removed meanwhile is an input error."""
    assert "does not exist; name the one that holds amends.toml" in refusal(Path("missing"))
    assert "is not a directory" in refusal(write(project, ""))
    gone = project / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert refusal().startswith("the current directory cannot be used")


@pytest.mark.parametrize(
    ("url", "resolved"),
    [
        ("sqlite:///events.db", "sqlite:///{dir}/events.db"),
        ("sqlite+pysqlite:///a/../b c.db", "sqlite:///{dir}/b c.db"),
        ("sqlite:////var/events.db", "sqlite:////var/events.db"),
        ("postgresql://u:p@h:5432/db", "postgresql+psycopg://u:p@h:5432/db"),
        ("postgresql+psycopg://h/db?sslmode=require", "postgresql+psycopg://h/db?sslmode=require"),
        ("postgresql://u@/db?host=/var/run", "postgresql+psycopg://u@/db?host=/var/run"),
        ("postgresql://?service=shop", "postgresql+psycopg://?service=shop"),
        ("postgresql://[::1]:5432/db", "postgresql+psycopg://[::1]:5432/db"),
    ],
)
def test_a_store_url_is_made_absolute(project: Path, monkeypatch: pytest.MonkeyPatch, url: str, resolved: str) -> None:
    """Each supported form becomes independent of the current directory, with the right driver."""
    monkeypatch.setenv("AMENDS_STORE_URL", url)
    assert load_settings().store_url == resolved.format(dir=project)


@pytest.mark.parametrize(
    ("url", "shown", "reason"),
    [
        ("events.db", "events.db", "it is not a URL; write sqlite:///path"),
        ("sqlite://events.db", "sqlite://events.db", "a file has no host; write three slashes"),
        ("sqlite://", "sqlite://", "a store in memory would be lost"),
        ("sqlite:///:memory:", "sqlite:///:memory:", "a store in memory would be lost"),
        ("sqlite:///a.db?timeout=1", "sqlite:///a.db", "SQLite takes a plain path"),
        ("sqlite:///~/a.db", "sqlite:///~/a.db", "'~' is not expanded"),
        (f"postgres://u:{MARK}@h/db", "postgres://u:***@h/db", "the scheme is spelt postgresql://"),
        (f"mysql://u:{MARK}@h/db", "mysql://u:***@h/db", "the scheme mysql:// is not supported"),
        (f"postgresql+asyncpg://u:{MARK}@h/db", "postgresql+asyncpg://u:***@h/db", "is not supported"),
        (f"postgresql://u:{MARK}@h", "postgresql://u:***@h", "it names no database"),
        (f"postgresql://u:{MARK}@h:port/db", "postgresql://***", "it cannot be read as a URL"),
        (f"postgresql://u:{MARK}@h:{'9' * 5000}/db", "postgresql://***", "it cannot be read as a URL"),
        (f"postgresql://u:p@{MARK}@h/db", "postgresql://***", "special characters of the password percent-encoded"),
        (f"postgresql://u:p?{MARK}@h:0/db", "postgresql://***", "it cannot be read as a URL"),
        (f"postgresql://u:{MARK}@h:/db", "postgresql://***", "it cannot be read as a URL"),
        (f"postgresql://u:{MARK}", "postgresql://***", "it cannot be read as a URL"),
        (f"postgresql://u:{MARK}@h/db\n", "postgresql://***", "it cannot be read as a URL"),
        (f"u:{MARK}@h/db", "***", "it is not a URL"),
        (f"u:{MARK}@x://h", "***", "it cannot be read as a URL"),
    ],
)
def test_a_wrong_store_url_is_one_line_without_its_password(
    project: Path, monkeypatch: pytest.MonkeyPatch, url: str, shown: str, reason: str
) -> None:
    """The message shows the location of the store and the reason for the refusal, never a part of the password."""
    monkeypatch.setenv("AMENDS_STORE_URL", url)
    with pytest.raises(errors.InputError) as raised:
        load_settings()
    message = str(raised.value)
    assert message.startswith(f"environment variable AMENDS_STORE_URL: '{shown}' is refused: ")
    assert reason in message
    assert MARK not in message
    assert raised.value.__suppress_context__
    assert project.is_dir()


@pytest.mark.parametrize("password", ["plain", "p%40ss", "p/w#d", "p?w=1", "a:b", ""])
def test_a_password_is_never_shown(project: Path, monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    """Neither the safe URL, nor the table of settings, nor the object's own text holds the password or a parameter."""
    monkeypatch.setenv("AMENDS_STORE_URL", f"postgresql://u:{password}@h:5432/db?password={MARK}")
    settings = load_settings()
    assert settings.safe_store_url == settings.shown()["store_url"] == "postgresql+psycopg://u:***@h:5432/db"
    shown = f"{settings!r} {settings} {settings.shown()}"
    assert MARK not in shown
    assert not password or password not in shown.replace("Posix", "")
    assert make_url(settings.store_url).host == "h"
    assert project.is_dir()


def test_a_list_in_place_of_the_store_url_is_not_shown(project: Path) -> None:
    """A password is not shown either when the URL has the wrong type or stands under an unknown key."""
    write(project, f'store_url = ["postgresql://u:{MARK}@h/db"]')
    assert MARK not in refusal()
    write(project, f'store = "postgresql://u:{MARK}@h/db"')
    assert MARK not in refusal()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///a b/c%20d#e.db",
        "postgresql://u:p/w#d@h:5432/db",
        "postgresql://u:p?w@h/db?x=1",
        "postgresql://u@x:p@h/db",
        "postgresql://u:@/db?host=/x",
        "postgresql://[::1]/db",
        "postgresql+psycopg://h/db",
    ],
)
def test_a_url_is_read_as_sqlalchemy_reads_it(url: str) -> None:
    """The parts that are checked and masked here are the parts to which Amends connects later."""
    theirs, ours = make_url(url), parse_store_url(url)
    assert ours is not None
    assert (ours.scheme, ours.host, ours.path) == (theirs.drivername, theirs.host, theirs.database)
    assert (ours.username, ours.password) == (theirs.username, theirs.password)
    assert make_url(mask_store_url(url)).host == theirs.host


def test_every_setting_is_documented() -> None:
    """The class's docstring, from which the reference is generated, names every setting."""
    missing = [name for name in Settings.model_fields if f"        {name}: " not in (Settings.__doc__ or "")]
    assert not missing


def test_reading_settings_imports_neither_a_database_nor_temporal(project: Path) -> None:
    """A command can read its settings before it knows whether it needs a store or a server."""
    code = (
        "import json, sys, amends.cli.project.load_modules, amends.cli.exit_codes\n"
        "from amends.cli.project.settings import load_settings\n"
        "load_settings()\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert not {"sqlalchemy", "temporalio", "alembic", "rich"} & set(json.loads(done.stdout))
