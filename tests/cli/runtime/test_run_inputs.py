"""The argument of `amends run` is JSON, `@file` or `-`; anything else is refused in one line."""

import io
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading_shop import Amends
from runs.driving import SAGA

from amends.aggregates.errors import InputError
from amends.cli.runtime.run_inputs import read_jobs
from amends.sagas.definition.registry import Registry

LONG = "x" * 300
TEXT = st.text(max_size=30) | st.sampled_from([LONG, f"{LONG}/{LONG}", "/" * 5_000, "\udcff", "a\0b", ".", "..", "/"])
ARGUMENTS = TEXT | TEXT.map("@{}".format) | TEXT.map("@{}.jsonl".format)


def refused(argument: str | None) -> str:
    """Return the message that refuses an argument."""
    with pytest.raises(InputError) as raised:
        read_jobs(Registry([SAGA]), SAGA, argument, run_id=None, id_field=None)
    said = str(raised.value)
    assert "\n" not in said
    assert len(said) < 400
    return said


@given(argument=ARGUMENTS)
def test_no_argument_raises_anything_but_an_input_error(argument: str) -> None:
    """Names that no file can have, such as 300 characters or a NUL byte, are refused like any other text."""
    refused(argument)


def test_a_long_json_argument_is_an_input() -> None:
    """JSON of more than 255 characters, the longest name of a file, is read as JSON."""
    (job,) = read_jobs(Registry([SAGA]), SAGA, f'{{"order_id": "{LONG}"}}', run_id=None, id_field=None)
    assert isinstance(job.start.input, dict)
    assert job.start.input["order_id"] == LONG


def test_a_long_argument_that_is_not_json_is_said_to_be_none(amends: Amends) -> None:
    """The program refuses the text as input and does not mention files."""
    answer = amends("run", "place-order", LONG)
    assert answer.code == 2
    assert "not JSON" in answer.err
    assert "File name too long" not in answer.err


@pytest.mark.parametrize(
    "argument", ["@", "@/", "@.", "@missing", f"@{LONG}", "@a\0b", "@a\0b.jsonl", "@/proc/self/mem"]
)
def test_what_cannot_be_read_is_named(argument: str) -> None:
    """Directories, missing and unreadable files end in a line that names the file and the reason."""
    assert "cannot be read (" in refused(argument)


def test_an_endless_file_is_refused() -> None:
    """A device that never ends does not fill the memory."""
    assert refused("@/dev/zero") == (
        "input file '/dev/zero' has more than 16,000,000 bytes; keep the data elsewhere and pass a reference"
    )


def test_standard_input_that_cannot_be_read_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard input that is closed, or open only for writing, is refused with a remedy."""
    monkeypatch.setattr(sys, "stdin", None)
    assert refused("-").startswith("standard input is closed; pipe the input into the command")
    written = os.open(tmp_path / "written", os.O_WRONLY | os.O_CREAT)
    with io.TextIOWrapper(io.FileIO(os.dup(written), "w")) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert refused("-").startswith("standard input cannot be read (")
    os.close(written)
