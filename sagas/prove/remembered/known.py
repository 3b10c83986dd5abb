"""Known answers: a question about the same objects is answered once. Pure.

An object is the same only if it is identical, because comparing runs would take longer than most answers. `Canon` makes
equal objects identical.
"""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

__all__ = ["Known"]

T = TypeVar("T")

MOST_ANSWERS = 50_000
"""The number of answers that are kept; then all are forgotten, because they keep runs and facts in memory."""


class Known:
    """Answers by question and by the identity of the objects that it is about.

    Args:
        most: The number of answers that are kept.
    """

    __slots__ = ("_answers", "_most")

    def __init__(self, most: int = MOST_ANSWERS) -> None:
        # The objects are kept with each answer, or another object could get the identity of one of them.
        self._answers: dict[Hashable, tuple[tuple[object, ...], Any]] = {}
        self._most = most

    def answer(self, question: Hashable, about: tuple[object, ...], find: Callable[[], T]) -> T:
        """Return the known answer, or find it and keep it.

        Args:
            question: The question; everything that can differ between two questions about the same objects.
            about: The objects, which never change.
            find: Returns the answer; a pure function of the question and the objects.
        """
        key = (question, *map(id, about))
        known = self._answers.get(key)
        if known is not None:
            answer: T = known[1]
            return answer
        answer = find()
        self.keep(question, about, answer)
        return answer

    def find(self, question: Hashable, about: tuple[object, ...]) -> Any:  # noqa: ANN401 - the type of the answer
        """Return the known answer; `None` if there is none."""
        known = self._answers.get((question, *map(id, about)))
        return None if known is None else known[1]

    def keep(self, question: Hashable, about: tuple[object, ...], answer: object) -> None:
        """Keep an answer."""
        if len(self._answers) >= self._most:
            self._answers.clear()
        self._answers[(question, *map(id, about))] = (about, answer)
