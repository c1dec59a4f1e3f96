"""A daemon's flags, as docopt hands them on, and what the configuration makes of them."""

from __future__ import annotations

from typing import Any

import pytest

from maglev0.config.configuration import REPEATABLE, Config, FlagsError, parse
from maglev0.core.text import printable
from maglev0.errors import ConfigError

DEFAULTS: dict[str, Any] = {
    "--my-id": "1",
    "--total-nodes": "5",
    "--zk": "localhost:2181",
    "--cluster-ip": "198.51.100.1",
    "--interface": None,
    "--dataplane": "auto",
    "--cluster-mac": None,
    "--hash-mode": "sourceip",
    "--hash-seed": None,
    "--session-timeout": "4",
    "--weight": "1",
    "--drain-timeout": "30",
    "--xdp": "auto",
    "--zk-loss": "release",
    "--check-timing": "2,1,2,3",
    "--notify": None,
    "--metrics": None,
    "--zk-auth": None,
    "--zk-ca": None,
    "--zk-cert": None,
    "--zk-key": None,
}
LEFT_OUT: dict[str, Any] = {
    **dict.fromkeys(DEFAULTS),
    "--check": [],
    "--dry-run": False,
    "--verbose": False,
}


def parsed(**flags: str | bool | list[str]) -> Config:
    """What the flags mean, given as keywords: my_id for --my-id."""
    given_flags = {"--" + name.replace("_", "-"): value for name, value in flags.items()}
    return parse({**LEFT_OUT, **given_flags}, DEFAULTS)


def refusal(flag: str, value: str, **others: str) -> str:
    """The text that refuses a value, which always begins with what was given."""
    with pytest.raises(ConfigError) as caught:
        parsed(
            **{flag.removeprefix("--").replace("-", "_"): [value] if flag in REPEATABLE else value},
            **others,
        )
    text = str(caught.value)
    if flag == "--hash-seed":
        value = "…"
    assert text.startswith(f"{flag}={printable(value)}: ")
    return text.removeprefix(f"{flag}={printable(value)}: ")


def faults(**flags: str | list[str]) -> list[str]:
    with pytest.raises(FlagsError) as caught:
        parsed(**flags)
    assert str(caught.value) == str(caught.value.faults[0])
    return [str(fault) for fault in caught.value.faults]
