"""`Access`: the credentials and certificates of a connection to a broker. Pure."""

from dataclasses import dataclass, field

__all__ = ["Access"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Credentials and certificates of a connection to Kafka or NATS. No secret is a part of its `repr`.

    Attributes:
        mechanism: SASL mechanism of Kafka, such as `SCRAM-SHA-512`; `None` for the usual one. NATS has none.
        username: Name of the user; `None` without one.
        password: Password of the user.
        token: Token of NATS; `None` without one.
        credentials_file: Path of a file of NATS (`.creds`) with a token and a key; `None` without one.
        tls: Whether the connection is encrypted; a certificate below implies it.
        ca_file: Path of the certificates of authorities that the client trusts; `None` for those of the system.
        certificate_file: Path of the client's certificate; `None` without one.
        key_file: Path of the private key of that certificate.
        key_password: Password of the private key.
    """

    mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    credentials_file: str | None = None
    tls: bool = False
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    key_password: str | None = field(default=None, repr=False)

    @property
    def encrypted(self) -> bool:
        """Whether the client asks for an encrypted connection."""
        return self.tls or self.ca_file is not None or self.certificate_file is not None
