"""Errors of the client as those of a file system."""

from __future__ import annotations

import errno

import pytest

from natproxy.client import ClientError, GaveUp
from natproxy.client.errors import ConnectionBroken, LocalError, NotUnderstood, UsageError
from natproxy.fs.errors import os_error


def gave_up() -> GaveUp:
    error = GaveUp("broken (gave up after 2 tries)")
    error.__cause__ = ConnectionBroken("broken")
    return error


@pytest.mark.parametrize(
    ("error", "kind", "number"),
    [
        (gave_up(), ConnectionError, None),
        (LocalError(b"here", PermissionError(errno.EACCES, "no")), PermissionError, errno.EACCES),
        (UsageError("too long"), OSError, errno.EINVAL),
        (NotUnderstood("what"), OSError, errno.EIO),
    ],
)
def test_error_has_the_kind_and_number_of_its_cause(
    error: ClientError, kind: type[OSError], number: int | None
) -> None:
    failure = os_error(error, "a")
    assert isinstance(failure, kind)
    assert failure.errno == number
    assert str(error) in str(failure)
