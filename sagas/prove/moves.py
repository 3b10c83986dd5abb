"""The moves of the search: everything that can happen next in a world, with its cost and its sentence. Pure.

A *fault* costs 1, and so does a request to cancel. The consequences of a fault cost nothing: a late call arrives, its
answer is recorded, a lease ends, at every later point. So the number of faults is the only bound of the search.
"""

from enum import Enum
from typing import NamedTuple

__all__ = ["Move", "MoveKind"]


class MoveKind(Enum):
    """The kinds of moves: the cost in faults, and the sentence for people."""

    DRIVE = (0, "the driver reads the journal and goes on")
    WAIT = (0, "{detail}")
    SUCCEED = (0, "{call} is answered: {detail}")
    FAIL = (1, "{call} never reaches the participant: {detail}")
    LOSE_REPLY = (1, "{call} reaches the participant ({detail}), and its reply is lost")
    REFUSE = (1, "the participant refuses {call}")
    TIME_OUT = (1, "{call} gets no answer within its timeout; it is still on its way")
    DELIVER_TWICE = (1, "{call} is answered: {detail}; the network keeps a copy of it")
    CRASH_CLAIMED = (1, "the worker dies after it claimed {call} and before it sent it")
    CRASH_SENT = (1, "the worker dies after it sent {call}")
    CRASH_ANSWERED = (1, "{call} reaches the participant ({detail}), and the worker dies before it records the answer")
    PAUSE = (1, "the worker that makes {call} is paused")
    TAKE_OVER_LIVE = (1, "another worker takes over {call}, whose worker is alive")
    COMMIT_LOST = (1, "{call} is answered: {detail}; the reply to the commit of this outcome is lost")
    MISS = (1, "{call} misses the effect, which took place a moment before")
    LISTENER_DIES = (1, "the worker that still waited for {call} dies")
    REDELIVER = (0, "the driver notices that the worker of {call} is gone, and delivers the call again")
    ARRIVE = (0, "{call} reaches the participant late: {detail}")
    RECORD_LATE = (0, "the answer of {call} comes late: {detail}")
    TRANSACTION = (1, "{detail}")
    CANCEL = (1, "somebody cancels the run")
    DECIDE = (0, "an operator decides about {detail}")
    OTHER_CODE = (1, "a release without {detail} is deployed")
    RIGHT_CODE = (0, "a release with {detail} is deployed again")
    REPLACE_DRIVER = (0, "an operator has another driver advance the run")

    def __init__(self, cost: int, sentence: str) -> None:
        self.cost = cost
        """The number of faults that the move uses up."""
        self.sentence = sentence
        """The sentence for people, with places for the call and the detail."""

    __hash__ = object.__hash__


class Move(NamedTuple):
    """One move.

    Attributes:
        kind: Its kind.
        run: Index of the run.
        call: The call that it is about, in words; empty if it is about none.
        detail: The rest of the sentence.
    """

    kind: MoveKind
    run: int
    call: str = ""
    detail: str = ""

    def __str__(self) -> str:
        return self.kind.sentence.format(call=self.call, detail=self.detail)
