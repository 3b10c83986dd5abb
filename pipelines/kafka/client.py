"""Settings and errors of the Kafka client (`confluent-kafka`, which wraps librdkafka). Does I/O.

The client connects, retries and reconnects in threads of its own, and reports failures to a callback while a call
returns "timed out". `Trouble` collects these reports, so that an error names the cause.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException

from amends.aggregates.errors import AmendsError, UnreachableError
from amends.aggregates.text import one_line
from amends.pipelines.definition.access import Access

__all__ = ["CONNECT_S", "Broker", "ErrorTypes", "Trouble", "code_of"]

CONNECT_S = 6.0
"""Longest time for which a call waits until the client is connected."""

_USUAL_MECHANISM = "SCRAM-SHA-512"
_NO_CAUSE = frozenset({"_ALL_BROKERS_DOWN", "_TIMED_OUT", "_TRANSPORT"})
_REFUSALS = frozenset(
    {
        "_AUTHENTICATION",
        "_SSL",
        "CLUSTER_AUTHORIZATION_FAILED",
        "SASL_AUTHENTICATION_FAILED",
        "TOPIC_AUTHORIZATION_FAILED",
        "UNSUPPORTED_SASL_MECHANISM",
    }
)
_ADDRESS = re.compile(r"^(?:\w+://)?(\S+?)/\w+: ")
_AFTER = re.compile(r" \(after \d+ms in state .*$")


class ErrorTypes(NamedTuple):
    """The errors that an adapter raises.

    Attributes:
        setup: A retry does not help.
        unreachable: A later attempt may succeed.
    """

    setup: type[AmendsError]
    unreachable: type[UnreachableError]


class Broker(NamedTuple):
    """The brokers, and the way to connect to them.

    Attributes:
        servers: Addresses as `host:port`, separated by commas.
        access: The credentials and certificates.
        errors: The errors that the adapter raises.
    """

    servers: str
    access: Access
    errors: ErrorTypes

    def settings(self) -> dict[str, Any]:
        """Return the settings of the client.

        Raises:
            AmendsError: A file of the certificates cannot be read, of the type `errors.setup`.
        """
        access = self.access
        files = {
            "ssl.ca.location": access.ca_file,
            "ssl.certificate.location": access.certificate_file,
            "ssl.key.location": access.key_file,
        }
        for file in files.values():
            self._check_readable(file)
        login = {
            "sasl.mechanism": access.mechanism or _USUAL_MECHANISM,
            "sasl.username": access.username,
            "sasl.password": access.password or "",
        }
        return {
            "bootstrap.servers": self.servers,
            "client.id": "amends",
            "log_level": 0,  # the callback of errors has the same texts
            "security.protocol": f"{'SASL_' if access.username else ''}{'SSL' if access.encrypted else 'PLAINTEXT'}",
            "socket.connection.setup.timeout.ms": 5000,
            "reconnect.backoff.max.ms": 1000,
            **{name: value for name, value in files.items() if value is not None},
            **({} if access.key_password is None else {"ssl.key.password": access.key_password}),
            **(login if access.username else {}),
        }

    def _check_readable(self, file: str | None) -> None:
        """Check that a file can be read, because the client's own error does not name the file."""
        try:
            if file is not None:
                Path(file).open("rb").close()
        except OSError as error:
            raise self.errors.setup(
                f"cannot read the file {file!r} ({error.strerror}); check the TLS settings"
            ) from error

    def refused(self, reason: str) -> AmendsError:
        """Return the error for a broker that refuses the client."""
        return self.errors.setup(
            f"Kafka at {self.servers} refuses the connection ({reason}); check the user, password and certificates"
        )

    def unreachable(self, reason: str) -> UnreachableError:
        """Return the error for a broker that does not answer."""
        return self.errors.unreachable(
            f"Kafka at {self.servers} does not answer ({reason}); check the address, TLS and SASL, and start the broker"
        )

    def missing(self, topic: str) -> AmendsError:
        """Return the error for a topic that does not exist."""
        return self.errors.setup(f"Kafka at {self.servers} has no topic {topic!r}; create it, or correct its name")

    def invalid(self, error: KafkaException) -> AmendsError:
        """Return the error for settings that the client refuses, such as a file that it cannot read."""
        reason = _text(error.args[0].str())
        return self.errors.setup(f"the client of Kafka refuses its settings ({reason}); check those of TLS and SASL")


class Trouble:
    """The failures that the client has reported since it last had an answer. One thread uses it."""

    def __init__(self) -> None:
        self._refusal = ""
        self._doubtful = ""
        self._cause = ""
        self.down = False

    def record(self, error: KafkaError) -> None:
        """Record a failure; the callback of the client."""
        code = code_of(error)
        text = _text(error.str())
        self.down = True
        if code in _REFUSALS and "transport failure" not in text:
            self._refusal = text
        elif code in _REFUSALS:
            self._doubtful = text  # a broker that stops in the middle of a login is reported in this way too
        elif code not in _NO_CAUSE or ": " in text:
            self._cause = text

    def clear(self) -> None:
        """Forget all failures, because a broker has answered."""
        self.__init__()  # type: ignore[misc]

    @property
    def refusal(self) -> str:
        """The reason for which a broker has refused the client; empty if none has."""
        return self._refusal

    def error(self, broker: Broker) -> AmendsError:
        """Return the error that explains why no broker has answered."""
        if self._refusal or (self._doubtful and not self._cause):
            return broker.refused(self._refusal or self._doubtful)
        return broker.unreachable(self._cause or "no reason is known")


def code_of(error: KafkaError) -> str:
    """Return the name of an error's code, such as `_TIMED_OUT`; those of the client begin with an underscore."""
    return str(error.name())


def _text(text: str) -> str:
    """Return the text of a client's error without its times and without the client's own names."""
    return one_line(_ADDRESS.sub(r"\1: ", _AFTER.sub("", text)))
