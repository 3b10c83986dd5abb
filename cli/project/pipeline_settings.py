"""`[pipelines.NAME]` of the settings file: the values that replace those of a pipeline's or relay's definition.

The file holds no secret: it names the environment variables that have them. Every wrong setting ends in one
`InputError` that names the place, the key and the remedy, and quotes no secret. `configured_pipelines` applies the
values; this module imports no definitions, so every command can afford to read the settings.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from amends.aggregates.errors import InputError
from amends.aggregates.text import shorten
from amends.pipelines.intake.modes import Mode

__all__ = ["SECRETS", "PipelineSettings", "read_pipeline_settings"]

SECRETS = frozenset({"password", "token", "key_password"})
"""The secrets, whose variables the settings `<name>_env` name."""

_PATHS = frozenset({"credentials_file", "ca_file", "certificate_file", "key_file"})
_TOGETHER = (
    ("username", "password_env"),
    ("password_env", "username"),
    ("certificate_file", "key_file"),
    ("key_file", "certificate_file"),
    ("key_password_env", "key_file"),
)

_Count = Annotated[int | None, Field(ge=1, le=1_000_000_000, description="a whole number from 1 to 1_000_000_000")]
_Weight = Annotated[int | None, Field(ge=1, le=1_000, description="a whole number from 1 to 1_000")]
_Text = Annotated[str | None, Field(min_length=1, description="text")]
_Variable = Annotated[
    str | None, Field(pattern="^[A-Za-z_][A-Za-z0-9_]*$", description="the name of an environment variable")
]
_File = Annotated[str | None, Field(min_length=1, description="the path of a file")]
_Flag = Annotated[bool | None, Field(description="true or false")]
_Kind = Annotated[dict[str, Any] | None, Field(description='a table such as { kind = "kafka", topic = "orders" }')]


class PipelineSettings(BaseModel):
    """The settings of one pipeline or relay; a key that is absent leaves the definition's value.

    Attributes:
        source: The source, as a table with its `kind` (`kafka`, `nats`, `jsonl`, `store`) and its fields.
        sink: The destination of a relay, as a table with its `kind` (`kafka`, `nats`, `jsonl`) and its fields.
        servers: Addresses of the broker.
        mode: The mode in which a new pipeline begins: `exactly-once`, `observed`, `at-least-once` or `shadow`.
        max_open_runs: Number of open runs at which a pipeline that starts runs pauses.
        weight: Share of the pipeline when several have messages to read.
        batch: Largest number of messages of one commit.
        lock_ms: Time for which one commit should hold the lock of the store's writer, in milliseconds.
        max_message_bytes: Largest content of a message; a larger one is set aside.
        max_held_per_key: Number of held messages of one key at which the pipeline pauses.
        max_held: Number of held messages at which the pipeline pauses.
        max_deferred: Number of deferred messages at which the pipeline leaves further ones in the source.
        mechanism: SASL mechanism of Kafka, such as `SCRAM-SHA-512`.
        username: Name of the user.
        password_env: Name of the environment variable that has the password.
        token_env: Name of the environment variable that has the token of NATS.
        credentials_file: Path of a file of NATS (`.creds`).
        tls: Whether the connection is encrypted; a certificate implies it.
        ca_file: Path of the certificates of authorities that the client trusts.
        certificate_file: Path of the client's certificate.
        key_file: Path of the private key of that certificate.
        key_password_env: Name of the environment variable that has the password of the private key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    source: _Kind = None
    sink: _Kind = None
    servers: _Text = None
    mode: Annotated[Mode | None, Field(strict=False, description=f"one of {', '.join(Mode)}")] = None
    max_open_runs: _Count = None
    weight: _Weight = None
    batch: _Count = None
    lock_ms: _Count = None
    max_message_bytes: _Count = None
    max_held_per_key: _Count = None
    max_held: _Count = None
    max_deferred: _Count = None
    mechanism: _Text = None
    username: _Text = None
    password_env: _Variable = None
    token_env: _Variable = None
    credentials_file: _File = None
    tls: _Flag = None
    ca_file: _File = None
    certificate_file: _File = None
    key_file: _File = None
    key_password_env: _Variable = None

    @property
    def given(self) -> dict[str, Any]:
        """The values that the file sets."""
        return {key: value for key, value in self if value is not None}


def read_pipeline_settings(tables: object, place: str, folder: Path) -> dict[str, PipelineSettings]:
    """Read the tables `[pipelines.NAME]`.

    Args:
        tables: The value of `pipelines` in the file.
        place: The file, for messages.
        folder: The folder from which relative paths of files start.

    Raises:
        InputError: A table or a value is wrong.
    """
    if not isinstance(tables, dict):
        raise InputError(f"{place}: pipelines is not a table; write [pipelines.NAME]")
    return {name: _read(table, f"{place}: pipelines.{name}", folder) for name, table in tables.items()}


def _read(table: object, place: str, folder: Path) -> PipelineSettings:
    if isinstance(table, PipelineSettings):
        return table
    if not isinstance(table, dict):
        raise InputError(f"{place} is not a table; write [pipelines.NAME] and the settings below it")
    known = PipelineSettings.model_fields
    for key in table:
        if key in SECRETS:
            raise InputError(
                f"{place}.{key}: a secret does not belong in this file; put it into an environment variable, and set "
                f"{key}_env to the variable's name"
            )
        if key not in known:
            raise InputError(f"{place}: {shorten(key)} is not a setting; {_remedy(key, known)}")
    try:
        settings = PipelineSettings(**table)
    except ValidationError as error:
        key = str(error.errors(include_url=False, include_input=False)[0]["loc"][0])
        # A variable's name is not quoted, because a user may have written the secret in its place.
        shown = "" if key.endswith("_env") else f" = {shorten(table[key])}"
        raise InputError(f"{place}.{key}{shown} is refused: it must be {known[key].description}; correct it") from None
    for one, other in _TOGETHER:
        if one in settings.given and other not in settings.given:
            raise InputError(f"{place}.{one} needs {other}; set both or neither")
    paths = {key: str(folder / value) for key, value in settings.given.items() if key in _PATHS}
    return settings.model_copy(update=paths)


def _remedy(key: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(key.lower().replace("-", "_"), known, n=1)
    return f"did you mean {near[0]}?" if near else f"remove it or choose from {', '.join(known)}"
