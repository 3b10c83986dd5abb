"""Checked values in the bodies of requests to the services."""

from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

__all__ = ["Amount", "Balance", "Body", "Key", "Name"]


class Body(BaseModel):
    """A request's body: no unknown fields, no conversion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _normal(amount: str) -> str:
    return str(Decimal(amount).quantize(Decimal("0.01")))


def _positive(amount: str) -> str:
    if Decimal(amount) <= 0:
        raise ValueError("must be more than zero")
    return amount


Balance = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,15}(\.[0-9]{1,2})?$"), AfterValidator(_normal)]
"""Money as text: zero or more, at most 15 digits before the point and 2 after; `5` becomes `5.00`."""

Amount = Annotated[Balance, AfterValidator(_positive)]
"""Money that moves: a `Balance` of more than zero."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:@+=-]{1,200}$")]
"""An account, an order, a stock-keeping unit: 1 to 200 of the characters that are safe everywhere."""

Key = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,1000}$")]
"""An idempotency key: 1 to 1,000 visible ASCII characters."""
