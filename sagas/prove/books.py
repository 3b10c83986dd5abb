"""Books: the record that participants keep of the calls that reached them, by idempotency key. Pure.

A participant in the search keeps its contract and no more than that:

| contract | the same call again | a call after its undo | an undo again | an undo before its call |
|---|---|---|---|---|
| remembers undo | gets the first answer | never acts | gets the first answer | the call will never act |
| keyed | gets the first answer | acts, if it has not acted | gets the first answer | changes nothing |
| forgetful | acts again | acts | undoes again | undoes something that is not there |

A probe of a participant that remembers undos closes the key if it finds nothing, as `Inbox.settle` does; so its answer
stays true. Any other probe only reads.

The books also count the transactions of the run, which take effect in the store; there the "participant" is the store
and its contract is the savepoint of the step.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from amends.sagas.definition.participants import Contract
from amends.sagas.engine.outcome import Failed, NotFound, Outcome, Refused, Succeeded

__all__ = ["Books", "Page", "RecordedAnswer", "receive", "receive_probe", "receive_undo"]

UNDONE = "this key has been undone"


class RecordedAnswer:
    """An outcome that can be compared and hashed, although its result may be any JSON.

    Args:
        outcome: The outcome.

    Attributes:
        outcome: The outcome.
        text: Its text; answers with equal texts are equal.
    """

    __slots__ = ("outcome", "text")

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.text = repr(outcome)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RecordedAnswer) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return self.text


class Page(NamedTuple):
    """The record under one key of a step.

    Attributes:
        run: Index of the run.
        node: Name of the node.
        acted: How often the step took effect.
        undone: How often the effect was undone.
        closed: Whether no further call under the key acts, because its undo or a probe came first.
        answer: The answer to the first call; `None` if none has arrived, or the participant keeps none.
        undos: The undo's keys that were answered, each with its answer.
        by_hand: Whether an operator undid the effect by hand.
    """

    run: int
    node: str
    acted: int = 0
    undone: int = 0
    closed: bool = False
    answer: RecordedAnswer | None = None
    undos: tuple[tuple[str, RecordedAnswer], ...] = ()
    by_hand: bool = False

    @property
    def standing(self) -> int:
        """The number of effects under the key that are not undone."""
        return self.acted - self.undone


_DONE = RecordedAnswer(Succeeded(None))
_MISSING = RecordedAnswer(NotFound())
_CLOSED = RecordedAnswer(Refused(UNDONE))


class Books:
    """All pages of all participants; it never changes, and `having` returns a changed copy.

    Args:
        pages: The pages by key.

    Attributes:
        pages: The pages by key.
        key: The content, for comparison.
    """

    __slots__ = ("key", "pages")

    def __init__(self, pages: Mapping[str, Page] | None = None) -> None:
        self.pages: Mapping[str, Page] = pages or {}
        self.key = frozenset(self.pages.items())

    def page(self, key: str, run: int, node: str) -> Page:
        """Return the page of a key; an empty one if no call has arrived under it."""
        return self.pages.get(key) or Page(run, node)

    def having(self, key: str, page: Page) -> "Books":
        """Return these books with another page."""
        return self if self.pages.get(key) == page else Books({**self.pages, key: page})

    def of(self, run: int, node: str) -> Iterator[Page]:
        """Return the pages of one node, one for each of its keys."""
        return (page for page in self.pages.values() if page.run == run and page.node == node)


def receive(page: Page, contract: Contract, act: Callable[[], Outcome]) -> tuple[Page, RecordedAnswer]:
    """Return the page and the answer after a call has arrived.

    Args:
        page: The page of the call's key.
        contract: The participant's contract.
        act: Carries the call out.
    """
    if contract is not Contract.FORGETFUL:
        if page.closed:
            return page, _CLOSED
        if page.answer is not None:
            return page, page.answer
    answer = RecordedAnswer(act())
    if isinstance(answer.outcome, Succeeded):
        return page._replace(acted=page.acted + 1, answer=answer), answer
    if isinstance(answer.outcome, Refused) and contract is not Contract.FORGETFUL:
        return page._replace(answer=answer), answer
    return page, answer


def receive_undo(page: Page, contract: Contract, key: str, act: Callable[[], Outcome]) -> tuple[Page, RecordedAnswer]:
    """Return the page and the answer after an undo has arrived.

    Args:
        page: The page of the key of the step.
        contract: The participant's contract.
        key: The undo's own key.
        act: Carries the undo out.
    """
    known = dict(page.undos).get(key) if contract is not Contract.FORGETFUL else None
    if known is not None:
        return page, known
    answer = RecordedAnswer(act())
    if isinstance(answer.outcome, Failed):
        return page, answer
    undos = (*page.undos, (key, answer)) if contract is not Contract.FORGETFUL else ()
    if not isinstance(answer.outcome, Succeeded):
        return page._replace(undos=undos), answer
    reverses = page.acted > page.undone or contract is Contract.FORGETFUL
    closed = page.closed or contract is Contract.REMEMBERS_UNDO
    return page._replace(undone=page.undone + reverses, closed=closed, undos=undos), answer


def receive_probe(page: Page, contract: Contract) -> tuple[Page, RecordedAnswer]:
    """Return the page and the answer after a probe has arrived."""
    if page.standing > 0 and page.answer is not None:
        return page, page.answer
    return (page._replace(closed=True) if contract is Contract.REMEMBERS_UNDO else page), _MISSING
