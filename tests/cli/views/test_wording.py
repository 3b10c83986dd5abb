"""Words for numbers and long lists."""

import pytest

from amends.cli.views.wording import counted


@pytest.mark.parametrize(("number", "text"), [(0, "0 sagas"), (1, "1 saga"), (2, "2 sagas")])
def test_a_number_has_the_right_form_of_its_noun(number: int, text: str) -> None:
    """Only one thing is named in the singular."""
    assert counted(number, "saga") == text
