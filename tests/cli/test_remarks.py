"""Test that messages of Python and its libraries reach the log in one line, and never raw."""

import asyncio
import gc
import logging
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

from amends.cli.output.remarks import log_to_stderr, tame_python


@pytest.fixture(autouse=True)
def _routed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Route messages as a worker does, and restore the routes afterwards."""
    monkeypatch.delenv("AMENDS_DEBUG", raising=False)
    for owner, name in ((warnings, "showwarning"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    handlers, level = logging.getLogger().handlers[:], logging.getLogger("temporalio").level
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        tame_python()
        log_to_stderr()
        yield
    logging.getLogger().handlers[:] = handlers
    logging.getLogger("temporalio").setLevel(level)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line on stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("amends: ")
    return line


def test_warnings_of_the_sdk_stay_off_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    """The SDK warns of failures that Amends reports in its own words; its errors are shown."""
    logging.getLogger("temporalio.activity").warning("Completing activity as failed")
    logging.getLogger("temporalio.worker").error("Worker failed, shutting down")
    assert said(capsys) == "amends: Worker failed, shutting down"


async def forgotten() -> None:
    """Do nothing; no caller awaits it."""


def test_a_coroutine_that_is_not_awaited_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Python's own warning has several lines and the source of the program."""
    forgotten()  # type: ignore[unused-coroutine]  # on purpose
    gc.collect()
    assert "Python warns: RuntimeWarning: coroutine 'forgotten' was never awaited" in said(capsys)


def test_a_warning_does_not_quote_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    """The log names the class and the place; the text of a warning of pydantic or of a step may hold user data."""
    warnings.warn("canary", UserWarning, stacklevel=1)
    line = said(capsys)
    assert "Python warns: UserWarning (" in line
    assert "canary" not in line


def test_an_error_of_a_forgotten_task_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The class of the error is named; the task and the text of the error, which may hold user data, are not."""

    async def fail() -> None:
        raise ValueError("canary")

    async def forget() -> None:
        task = asyncio.create_task(fail())
        await asyncio.wait([task])
        del task
        gc.collect()

    asyncio.run(forget())
    line = said(capsys)
    assert line == "amends: Task exception was never retrieved: ValueError"


def test_a_thread_that_fails_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback of a thread reaches the screen."""

    def fail() -> None:
        raise ValueError("canary")

    thread = threading.Thread(target=fail, name="t")
    thread.start()
    thread.join()
    assert said(capsys) == "amends: thread t ended with ValueError (AMENDS_DEBUG=1 shows where)"


def test_an_error_of_a_finaliser_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Python prints such errors with a traceback, since nobody can catch them."""

    class Bad:
        def __del__(self) -> None:
            raise ValueError("canary")

    Bad()
    gc.collect()
    assert said(capsys) == "amends: an error that no caller could catch: ValueError (AMENDS_DEBUG=1 shows where)"
