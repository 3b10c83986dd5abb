"""Types with values of every form."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from pydantic import BaseModel, PositiveInt

from amends.aggregates.values.json_codec import JsonCodec
from amends.aggregates.values.strict_json import RESERVED_KEYS

ANYTHING: JsonCodec[Any] = JsonCodec(Any)


class Color(StrEnum):
    """A text enum."""

    RED = "red"
    BLUE = "blue"


class Shape(Enum):
    """An enum without a JSON type of its own."""

    ROUND = "round"
    SQUARE = 4


class Line(BaseModel):
    """A nested model."""

    sku: str
    quantity: PositiveInt


class Plain:
    """A class unknown to pydantic."""

    def __repr__(self) -> str:
        return "Plain()"


@dataclass
class Zoned:
    """An instant, and its zone."""

    at: datetime
    zone: ZoneInfo


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
keys = text.filter(lambda key: key not in RESERVED_KEYS)  # Hypothesis finds them in the source
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
lines = st.builds(Line, sku=text, quantity=st.integers(1, 10**9))
BERLIN = ZoneInfo("Europe/Berlin")
