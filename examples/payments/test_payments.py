"""A payment is credited once, and a refused one holds up its own customer only."""

from collections import Counter

import provider
from payments import Account, Payment, payments

from amends.aggregates.intake import HeldKind
from amends.testing import PipelineScenario


def credited(scenario: PipelineScenario[Payment], customer: str) -> list[str]:
    """Return the ids of a customer's credits."""
    account = scenario.load(Account, customer)
    return [] if account is None else account.payment_ids


def test_a_payment_that_comes_twice_is_credited_once() -> None:
    """Neither a repetition nor the death of the consumer before its commit doubles a credit."""
    with PipelineScenario(payments) as scenario:
        first = Payment(payment_id="p-1", customer="ann", cents=500)
        scenario.message(first).message(first).redelivered().crashed_before_commit().taken()
        account = scenario.load(Account, "ann")
        assert account is not None
        assert (account.cents, account.payment_ids) == (500, ["p-1"])
        assert scenario.counts.repeated == 2


def test_a_refused_payment_holds_up_its_customer_only() -> None:
    """The later payments of the customer are held in order, and those of others are credited."""
    with PipelineScenario(payments) as scenario:
        scenario.message(Payment(payment_id="p-1", customer="ann", cents=500, currency="DOGE"))
        scenario.message(Payment(payment_id="p-2", customer="bob", cents=500))
        scenario.message(Payment(payment_id="p-3", customer="ann", cents=500)).taken()
        assert (credited(scenario, "ann"), credited(scenario, "bob")) == ([], ["p-2"])
        assert [(each.id, each.kind) for each in scenario.held] == [
            ("p-1", HeldKind.FAILED),
            ("p-3", HeldKind.FOLLOWER),
        ]
        assert "in DOGE" in scenario.held[0].reason


def test_the_provider_publishes_two_percent_twice() -> None:
    """A second call continues with the next number, and one customer has one refused payment."""
    sent = list(provider.messages(0, 500))
    counts = Counter(each.payment_id for each in sent)
    assert (len(sent), len(counts)) == (510, 500)
    assert [each.customer for each in sent if each.currency != "EUR"] == [provider.POISONED]
    assert provider.next_number(len(sent)) == 500
