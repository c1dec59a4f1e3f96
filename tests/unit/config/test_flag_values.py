"""The words with which each flag refuses a value; test_configuration has the accepted values."""

from __future__ import annotations

import pytest

from tests.support.flags import faults, refusal
from tests.support.refused_values import REFUSED


@pytest.mark.parametrize(
    ("flag", "value", "why"), REFUSED, ids=[f"{flag}={value[:20]}" for flag, value, _ in REFUSED]
)
def test_what_is_refused(flag: str, value: str, why: str) -> None:
    assert refusal(flag, value) == why


@pytest.mark.parametrize("value", ["", "secret", "digest:user", "digest::/f", "kerberos:u:/f"])
def test_what_is_no_identity(value: str) -> None:
    (told,) = faults(zk_auth=value)
    assert ": must be digest:USER:PASSWORD-FILE or sasl:USER:PASSWORD-FILE" in told


@pytest.mark.parametrize(
    ("flag", "value", "shown"),
    [
        ("zk_auth", "digest:user", "--zk-auth=digest:…"),
        ("zk_auth", "geheim", "--zk-auth=…"),
        ("hash_seed", "0xgeheim", "--hash-seed=…"),
        ("check", "http://me:geheim@:80/", "--check=http:…"),
        ("check", "@geheim", "--check=…"),
    ],
)
def test_no_error_tells_a_secret(flag: str, value: str, shown: str) -> None:
    (told,) = faults(**{flag: [value] if flag == "check" else value})
    assert told.startswith(f"{shown}: ")
    assert "geheim" not in told
