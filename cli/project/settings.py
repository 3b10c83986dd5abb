"""Settings of a project: their places, their values, and the error for a wrong one.

Settings come from `amends.toml`, or from `[tool.amends]` in `pyproject.toml`, in the current directory or in its
nearest parent that has one. An environment variable (`AMENDS_STORE_URL`) overrides its key (`store_url`). Every wrong
setting ends in one `InputError` that names the place, the key, the value and the remedy. This module connects to
nothing and imports neither a database nor Temporal, so every command can afford to read the settings.
"""

import difflib
import json
import keyword
import os
import re
import stat
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from amends.aggregates.errors import InputError
from amends.aggregates.store_url import MAX_PORT, mask_store_url
from amends.aggregates.text import one_line, shorten
from amends.cli.durations import span_ms
from amends.cli.project.pipeline_settings import PipelineSettings, read_pipeline_settings
from amends.cli.project.store_url import absolute, resolve_store_url

__all__ = ["CONFIG_FILE", "ENV_PREFIX", "Settings", "load_settings", "settings_from"]

CONFIG_FILE = "amends.toml"
ENV_PREFIX = "AMENDS_"

_PYPROJECT = "pyproject.toml"
_GIVEN = frozenset({"project_dir", "config_file"})  # set by load_settings, never by the user
_MAX_INT_CHARS = 20
_LONGEST_DRAIN_MS = 86_400_000
# How similar a name must be to a known one to count as its misspelling: `STORE_URI` is, Kubernetes' own `PORT` is not.
_ALIKE = 0.8


# ---- The settings


class _Environment(EnvSettingsSource):
    """Reader of `AMENDS_*` variables in the form that people write: numbers as digits, lists with commas."""

    def prepare_field_value(
        self,
        field_name: str,
        field: FieldInfo,
        value: Any,  # noqa: ANN401 - as in the class that it extends
        value_is_complex: bool,  # noqa: ARG002, FBT001 - as above
    ) -> Any:  # noqa: ANN401 - as above
        if not isinstance(value, str) or field_name in _GIVEN:
            return None
        if field_name == "modules":
            return _read_list(value)
        if field.annotation is bool:
            return {"true": True, "false": False}.get(value.lower(), value)
        digits = value.replace("_", "")
        if field.annotation in {int, int | None} and digits.isascii() and digits.isdigit():
            return int(digits) if len(digits) < _MAX_INT_CHARS else value
        return value


def _read_list(text: str) -> object:
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return [part.strip() for part in text.split(",") if part.strip()]


_Port = Annotated[int | None, Field(ge=1, le=MAX_PORT, description="a port from 1 to 65535")]
_Bytes = Annotated[int, Field(ge=1, le=1_000_000_000, description="a number of bytes from 1 to 1_000_000_000")]


class Settings(BaseSettings):
    """The settings of a project, checked and with absolute paths; `load_settings` returns them.

    Attributes:
        project_dir: The directory that relative paths start from and that modules are imported from.
        config_file: The file that the settings were read from; None if only the environment and defaults apply.
        modules: Dotted names of the modules that define sagas, in the order of their import.
        data_dir: Directory for the files of the embedded server and of the default store.
        store_url: The journal's database. A password in it is never printed: messages show `safe_store_url`.
        task_queue: Temporal's task queue for sagas and for steps that name no other.
        max_input_bytes: Largest input of a saga run, in bytes of its JSON text.
        max_result_bytes: Largest result of a step, in bytes of its JSON text.
        embedded_port: Port of the embedded Temporal server; if it is not set, a free one.
        ui_port: Port of the embedded server's web page; if it is not set, a free one.
        worker_concurrency: Largest number of calls of `async def` functions that one worker makes at a time.
        worker_threads: Largest number of plain `def` functions that one worker runs at a time; if it is not set,
            `worker_concurrency`.
        drain: Time in which calls in flight may end after a worker was asked to stop, such as `30s` or `5min`; if it is
            not set, the longest timeout of the catalog, at most ten minutes.
        errors: Detail in the log of an error that user code raises: its class and the places in code (`type`), or its
            message and the lines of code as well (`text`), which may quote user data. If it is not set, `amends dev`
            shows the text and every other command the class.
        schedule_rules: Whether `amends dev` runs every drift rule on a schedule, as often as the rule declares.
        pipelines: The tables `[pipelines.NAME]`, whose values replace those of a pipeline's or relay's definition.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        strict=True,
        hide_input_in_errors=True,
    )

    project_dir: Path
    config_file: Path | None = None
    modules: Annotated[
        tuple[str, ...], Field(strict=False, description='a list of dotted module names, such as ["shop.sagas"]')
    ] = ()
    data_dir: Annotated[Path, Field(strict=False, description="a path", validate_default=True)] = Path(".amends")
    store_url: str = Field(
        default_factory=lambda data: f"sqlite:///{data.get('data_dir', Path()) / 'events.db'}",
        description="the URL of a database",
        repr=False,
        validate_default=True,
    )
    task_queue: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@+=/-]{0,199}$",
            description="a name of at most 200 letters, digits and ._:@+=/- that begins with a letter or digit",
        ),
    ] = "amends"
    max_input_bytes: _Bytes = 1_000_000
    max_result_bytes: _Bytes = 1_000_000
    embedded_port: _Port = None
    ui_port: _Port = None
    worker_concurrency: Annotated[int, Field(ge=1, le=10_000, description="a number from 1 to 10_000")] = 100
    worker_threads: Annotated[int | None, Field(ge=1, le=10_000, description="a number from 1 to 10_000")] = None
    drain: Annotated[
        timedelta | None,
        Field(description="a duration from 0s to 1d, such as 30s, 5min or 1h30min", validate_default=True),
    ] = None
    errors: Annotated[Literal["type", "text"] | None, Field(description="type or text")] = None
    schedule_rules: Annotated[bool, Field(description="true or false")] = True
    pipelines: Annotated[
        dict[str, PipelineSettings], Field(description="tables of the settings file, one for each pipeline")
    ] = {}

    @property
    def safe_store_url(self) -> str:
        """The store's name without password and parameters, for messages and the screen."""
        return mask_store_url(self.store_url)

    def shown(self) -> dict[str, str]:
        """Return every setting as text that is safe to print, in the order of the reference."""
        values = self.model_dump(exclude={"pipelines"}) | {
            "store_url": self.safe_store_url,
            "modules": ", ".join(self.modules),
            "pipelines": ", ".join(self.pipelines),
        }
        if self.drain is not None:
            values["drain"] = f"{self.drain.total_seconds():g}s"
        return {key: "-" if value in (None, "") else one_line(str(value)) for key, value in values.items()}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - replaced by `_Environment`
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - settings have two places, not four
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, whose values are passed as arguments."""
        return _Environment(settings_cls), init_settings

    @field_validator("modules")
    @classmethod
    def _check_modules(cls, modules: tuple[str, ...]) -> tuple[str, ...]:
        for name in modules:
            if not all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split(".")):
                dotted = re.sub(r"[/\\]+", ".", re.sub(r"\.py$|^\./", "", name)).strip(".")
                raise ValueError(f"{shorten(name)} is not a dotted module name; write it like {shorten(dotted)}")
        repeated = [name for at, name in enumerate(modules) if name in modules[:at]]
        if repeated:
            raise ValueError(f"{repeated[0]!r} appears twice; remove one")
        return modules

    @field_validator("data_dir", mode="before")
    @classmethod
    def _resolve_data_dir(cls, path: object, info: ValidationInfo) -> object:
        return absolute(str(path), info.data["project_dir"]) if isinstance(path, str | Path) else path

    @field_validator("store_url")
    @classmethod
    def _check_store_url(cls, url: str, info: ValidationInfo) -> str:
        return resolve_store_url(url, info.data["project_dir"])

    @field_validator("drain", mode="before")
    @classmethod
    def _read_drain(cls, text: object) -> object:
        if not isinstance(text, str):
            return text
        try:
            return timedelta(milliseconds=span_ms(text, "drain", most_ms=_LONGEST_DRAIN_MS))
        except InputError as error:
            raise ValueError(str(error)) from None

    @field_validator("ui_port")
    @classmethod
    def _check_ui_port(cls, port: int | None, info: ValidationInfo) -> int | None:
        if port is not None and port == info.data.get("embedded_port"):
            raise ValueError("embedded_port is the same; choose another")
        return port


class _Arguments(Settings):
    """Settings that a caller passes; neither a file nor the environment changes them."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - as in the class that it extends
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


# ---- Finding and reading them


def settings_from(**values: Any) -> Settings:  # noqa: ANN401 - any value, which is checked
    """Check settings that a caller passes; relative paths start from the current directory.

    Raises:
        InputError: A setting is wrong.
    """
    if "pipelines" in values:
        values["pipelines"] = read_pipeline_settings(values["pipelines"], "settings", Path.cwd())
    try:
        return _Arguments(project_dir=Path.cwd(), **values)
    except ValidationError as error:
        # Without the cause: it may hold the store's password.
        raise InputError(_message(error, None, environment=False)) from None


def load_settings(project: Path | None = None) -> Settings:
    """Find, read and check the settings.

    A directory without settings is a project with the defaults, so reading it needs no preparation. A command that
    needs modules reports that none are configured.

    Args:
        project: The project's directory, whose parents are then not searched; None searches from the current one up.

    Raises:
        InputError: The directory does not exist, a file cannot be read, or a setting is wrong.
    """
    directory, file, values = _find(project)
    known = set(Settings.model_fields) - _GIVEN
    for key in values:
        if key not in known:
            raise InputError(f"{file}: {shorten(key)} is not a setting; {_remedy_for_unknown(key, known)}")
    _refuse_misspelt_variables(known)
    if "pipelines" in values:
        values["pipelines"] = read_pipeline_settings(values["pipelines"], str(file), directory)
    try:
        return Settings(project_dir=directory, config_file=file, **values)
    except ValidationError as error:
        # Without the cause: it may hold the store's password.
        raise InputError(_message(error, file)) from None


def _find(project: Path | None) -> tuple[Path, Path | None, dict[str, Any]]:
    try:
        start = Path(os.path.abspath(project)) if project else Path.cwd()  # noqa: PTH100 - resolves no symbolic links
    except OSError as error:
        raise InputError(f"the current directory cannot be used ({error.strerror}); change to another") from error
    if not start.is_dir():
        kind = "is not a directory" if start.exists() else "does not exist"
        raise InputError(f"project directory {shorten(str(start))} {kind}; name the one that holds {CONFIG_FILE}")
    for directory in (start,) if project else (start, *start.parents):
        found = _read_directory(directory)
        if found is None:
            continue
        if directory != start and directory.stat().st_mode & stat.S_IWOTH:
            # Amends would import its modules: code of a stranger, if a stranger put the file there.
            raise InputError(
                f"{found[0]}: any user can write to that directory; pass it with --project if you trust its settings"
            )
        return directory, *found
    return start, None, {}


def _read_directory(directory: Path) -> tuple[Path, dict[str, Any]] | None:
    own, pyproject = directory / CONFIG_FILE, directory / _PYPROJECT
    settings = _read_toml(own)
    tool = (_read_toml(pyproject) or {}).get("tool")
    table = tool.get("amends") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise InputError(f"{pyproject}: tool.amends = {shorten(table)} is not a table; write [tool.amends]")
    if settings is not None and table is not None:
        raise InputError(f"{own} and [tool.amends] in {pyproject} both hold settings; keep one of them")
    if settings is not None:
        return own, settings
    return None if table is None else (pyproject, table)


def _read_toml(file: Path) -> dict[str, Any] | None:
    try:
        text = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); make it a file that you may read") from error
    try:
        return tomllib.loads(text.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: byte {error.start + 1} is not UTF-8; save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not valid TOML: {one_line(str(error))}; correct it there") from error


def _remedy_for_unknown(key: str, known: set[str]) -> str:
    if key in {"tool", "amends"}:
        return f"in {CONFIG_FILE} write settings at the top level, without [tool.amends]"
    near = difflib.get_close_matches(key.lower().replace("-", "_"), known, n=1)
    return f"did you mean {near[0]}?" if near else f"remove it or choose from {', '.join(sorted(known))}"


def _refuse_misspelt_variables(known: set[str]) -> None:
    """Refuse a variable that was meant for Amends; others may begin alike, such as those that Kubernetes sets."""
    for name in sorted(os.environ):
        if not name.upper().startswith(ENV_PREFIX):
            continue
        key = name[len(ENV_PREFIX) :].lower()
        near = difflib.get_close_matches(key, known, n=1, cutoff=_ALIKE)
        if key not in known and near:
            raise InputError(
                f"environment variable {name} is not a setting; did you mean {ENV_PREFIX}{near[0].upper()}? Or unset it"
            )


def _message(error: ValidationError, file: Path | None, *, environment: bool = True) -> str:
    found = [each for each in error.errors(include_url=False) if each["type"] != "default_factory_not_called"]
    first = found[0]
    key = str(first["loc"][0])
    value = first["input"]
    variable = next((name for name in os.environ if environment and name.upper() == f"{ENV_PREFIX}{key.upper()}"), None)
    if key == "store_url":
        value = mask_store_url(value) if isinstance(value, str) else type(value)
    shown = shorten(value)
    reason = (
        str(first["ctx"]["error"])
        if first["type"] == "value_error"
        else f"it must be {Settings.model_fields[key].description}; correct it or leave it out"
    )
    place = (
        f"environment variable {variable}: {shown}"
        if variable is not None and os.environ[variable]
        else f"{file or 'settings'}: {key} = {shown}"
    )
    more = f" ({len(found) - 1} more wrong)" if len(found) > 1 else ""
    return f"{place} is refused: {reason}{more}"
