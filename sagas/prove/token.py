"""Replay tokens: a story in one short word, which anyone with the same saga can play again. Pure.

`1.2.0.rk.3f9a0c1d.AAECBQ` has the format, the faults, the decisions of operators, a letter for the contract of each
participant in the order of their names, the start of a fingerprint, and the index of each move.
"""

import base64
import binascii
from typing import NamedTuple

from amends.aggregates.errors import InputError
from amends.aggregates.text import shorten
from amends.sagas.definition.participants import Contract

__all__ = ["ReplayToken"]

_FORMAT = "1"
_LETTERS = {Contract.REMEMBERS_UNDO: "r", Contract.KEYED: "k", Contract.FORGETFUL: "f"}
_CONTRACTS = {letter: contract for contract, letter in _LETTERS.items()}
_PARTS = 6
_LARGEST = 255


class ReplayToken(NamedTuple):
    """The content of a token.

    Attributes:
        faults: The number of faults that the search allowed.
        decisions: The number of decisions of operators that it allowed.
        contracts: The contracts, in the order of the participants' names.
        fingerprint: The start of a fingerprint of plans and inputs.
        path: The index of each move.
    """

    faults: int
    decisions: int
    contracts: tuple[Contract, ...]
    fingerprint: str
    path: tuple[int, ...]

    def __str__(self) -> str:
        letters = "".join(_LETTERS[each] for each in self.contracts) or "-"
        # An index above 254 is written as 255 and the rest.
        encoded = bytearray()
        for index in self.path:
            encoded += bytes([_LARGEST] * (index // _LARGEST) + [index % _LARGEST])
        moves = base64.urlsafe_b64encode(bytes(encoded)).decode().rstrip("=")
        return ".".join([_FORMAT, str(self.faults), str(self.decisions), letters, self.fingerprint, moves])

    @classmethod
    def read(cls, text: str) -> "ReplayToken":
        """Read a token.

        Raises:
            InputError: The text is not a token.
        """
        parts = text.strip().split(".")
        if len(parts) != _PARTS or parts[0] != _FORMAT:
            raise _no_token(text)
        try:
            contracts = tuple(_CONTRACTS[letter] for letter in parts[3].strip("-"))
            moves = base64.b64decode(parts[5] + "=" * (-len(parts[5]) % 4), altchars=b"-_", validate=True)
            return cls(int(parts[1]), int(parts[2]), contracts, parts[4], _path(moves))
        except (ValueError, KeyError, binascii.Error):
            raise _no_token(text) from None


def _no_token(text: str) -> InputError:
    return InputError(f"{shorten(text)} is no replay token; copy the whole token of the report")


def _path(moves: bytes) -> tuple[int, ...]:
    path: list[int] = []
    large = 0
    for byte in moves:
        if byte == _LARGEST:
            large += _LARGEST
        else:
            path.append(large + byte)
            large = 0
    return tuple(path)
