"""Each error has its exit code, as the documentation says."""

import pytest

from amends.aggregates import errors
from amends.cli.exit_codes import ExitCode, exit_code_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.DefinitionError("x"), 2),
        (errors.InputError("x"), 2),
        (errors.NotFoundError("x"), 2),
        (errors.StartConflictError("x"), 2),
        (errors.WrongStoreError("x"), 3),
        (errors.NewerFactError("x", 1, "newer", "upgrade"), 2),
        (errors.UnreachableError("x"), 3),
        (errors.AppendConflictError("run/1", expected=1, actual=2), 3),
        (PermissionError("x"), 3),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError(), 70),
        (ExceptionGroup("x", [errors.InputError("x"), errors.UnreachableError("x")]), 3),
        (BaseExceptionGroup("x", [KeyboardInterrupt(), errors.InputError("x")]), 130),
    ],
)
def test_each_error_has_its_exit_code(error: BaseException, code: int) -> None:
    """No error ends in 0 or 1, which mean that nothing or that something was found."""
    assert exit_code_of(error) == code


def test_exit_codes_are_the_documented_ones() -> None:
    """The numbers are an interface: scripts branch on them."""
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "FOUND": 1,
        "USAGE": 2,
        "UNREACHABLE": 3,
        "COMPENSATED": 4,
        "NEEDS_ATTENTION": 5,
        "DAMAGED": 6,
        "INTERNAL": 70,
        "INTERRUPTED": 130,
    }
