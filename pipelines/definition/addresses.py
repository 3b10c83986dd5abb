"""Checks of the texts and addresses in the descriptions of sources and sinks. Pure."""

from amends.aggregates.errors import DefinitionError
from amends.aggregates.text import shorten

__all__ = ["check_servers", "check_text"]


def check_text(value: object, what: str, use: str) -> None:
    """Check that a value is a text that can be printed.

    Raises:
        DefinitionError: It is not.
    """
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise DefinitionError(f"{what} is {shorten(value)}; use {use}")


def check_servers(value: object, what: str, example: str) -> None:
    """Check that a value is a list of addresses without a login.

    Raises:
        DefinitionError: It is not.
    """
    use = f"one or more addresses separated by commas, such as {example!r}"
    check_text(value, f"{what}: servers", use)
    for address in str(value).split(","):
        host, _, port = address.strip().removesuffix("/").rpartition(":")
        if not host.strip("/") or not port.isdecimal():
            raise DefinitionError(f"{what}: servers has {shorten(address)}; use {use}")
        if "@" in host:
            raise DefinitionError(f"{what}: servers has a login; put it into [pipelines.NAME] of amends.toml")
