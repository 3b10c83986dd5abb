"""The store's URL: its accepted forms, and its name without secrets. Pure: it imports no database."""

import re
from typing import NamedTuple
from urllib.parse import parse_qsl

__all__ = ["MAX_PORT", "STORE_FORMS", "StoreUrl", "check_store_url", "mask_store_url", "parse_store_url"]

MAX_PORT = 65_535
"""The highest port."""

STORE_FORMS = "write sqlite:///path/to/events.db or postgresql://user:password@host/database"
"""The remedy for a URL that names no store."""

_MAX_PORT_CHARS = 5


class StoreUrl(NamedTuple):
    """The parts of a store's URL, as the user wrote them; `None` for a part that is absent."""

    scheme: str
    username: str | None
    password: str | None
    host: str | None
    path: str
    query: str | None


# The grammar is that of SQLAlchemy's make_url (2.0): a URL that is checked here later connects to the same place. In
# particular a password ends at the first `@` and may contain `/`, `?` and `#`, which urllib would read otherwise.
_URL = re.compile(
    r"(?P<scheme>[\w+]+)://"
    r"(?:(?P<username>[^:/]*)(?::(?P<password>[^@]*))?@)?"
    r"(?:(?:\[(?P<ipv6>[^/?]+)\]|(?P<host>[^/:?]+))?(?::(?P<port>[^/?]*))?)?"
    r"(?:/(?P<path>[^?]*))?"
    r"(?:\?(?P<query>.*))?"
)


def parse_store_url(url: str) -> StoreUrl | None:
    """Return the parts of a store URL; `None` if the split may differ from the one that its author meant."""
    found = _URL.fullmatch(url)
    if not found or not url.isprintable() or url != url.strip():
        return None
    host, port = found["ipv6"] or found["host"], found["port"]
    if "@" in (host or "") or (port is not None and not _is_port(port)):
        return None
    return StoreUrl(found["scheme"], found["username"], found["password"], host, found["path"] or "", found["query"])


def _is_port(text: str) -> bool:
    return len(text) <= _MAX_PORT_CHARS and text.isascii() and text.isdigit() and 0 < int(text) <= MAX_PORT


def mask_store_url(url: str) -> str:
    """Return the name of a store without secrets, for messages and the screen.

    The function removes the password and the parameters after `?`, which may hold other secrets. Of a URL that cannot
    be parsed it shows nothing that might be part of a password.
    """
    parsed = parse_store_url(url)
    if parsed is None:
        scheme, separator, _ = url.partition("://")
        if "@" in scheme:
            return "***"
        return f"{scheme}://***" if separator else url
    if parsed.password is not None:
        start = url.index("://") + 3 + len(parsed.username or "")
        url = f"{url[:start]}:***{url[start + 1 + len(parsed.password) :]}"
    return url.partition("?")[0]


def check_store_url(url: str) -> StoreUrl:
    """Return the parts of a store's URL if it has one of the accepted forms.

    Raises:
        ValueError: The URL names no store; the message holds neither the URL nor a part of its password.
    """
    parsed = parse_store_url(url)
    if parsed is None:
        if "://" not in url:
            raise ValueError(f"it is not a URL; {STORE_FORMS}")
        raise ValueError(
            f"it cannot be read as a URL; {STORE_FORMS}, special characters of the password percent-encoded"
        )
    match parsed.scheme:
        case "sqlite" | "sqlite+pysqlite":
            _check_sqlite_url(parsed)
        case "postgresql" | "postgresql+psycopg":
            parameters = {name for name, _ in parse_qsl(parsed.query or "")}
            if not parsed.path and not parameters & {"dbname", "service"}:
                raise ValueError(f"it names no database; {STORE_FORMS}")
        case "postgres":
            raise ValueError("the scheme is spelt postgresql://; correct it")
        case _:
            raise ValueError(f"the scheme {parsed.scheme}:// is not supported; {STORE_FORMS}")
    return parsed


def _check_sqlite_url(parsed: StoreUrl) -> None:
    if parsed.host or parsed.username is not None:
        raise ValueError("a file has no host; write three slashes before a relative path, four before an absolute one")
    if parsed.query is not None or parsed.path.startswith("file:"):
        raise ValueError(f"SQLite takes a plain path, without parameters and without '?'; {STORE_FORMS}")
