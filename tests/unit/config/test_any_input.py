"""Whatever is given: a command line is a valid configuration, one printable error, or the help."""

from __future__ import annotations

import re
from collections.abc import Callable

from hypothesis import example, given, settings
from hypothesis import strategies as st

from maglev0.config import command_line
from maglev0.config.configuration import SWITCHES, Config, parse
from maglev0.config.flag_values import MAX_VIPS
from maglev0.core.service import HashFamily
from maglev0.core.settings import MAX_TOTAL_NODES, SEED_LIMIT
from maglev0.core.text import printable
from maglev0.core.view import MAX_WEIGHT
from maglev0.errors import ConfigError
from tests.support.flags import DEFAULTS, LEFT_OUT
from tests.support.refused_values import REFUSED

junk = st.one_of(
    st.text(st.characters(), max_size=40),
    st.from_regex(r"[0-9a-fxA-F:.,/\[\]_\-+ e]{0,30}", fullmatch=True),
    st.sampled_from([value for _flag, value, _why in REFUSED]),
    st.sampled_from(
        ["1", "5", "zk1:1/a", "198.51.100.7", "eth0", "auto", "03:bf:c6:33:64:01", "0x7", "2.5"]
    ),
)


def attempt(read: Callable[[], Config]) -> Config | ConfigError | SystemExit:
    try:
        return read()
    except (ConfigError, SystemExit) as end:
        return end


def valid(config: Config) -> bool:
    """Whether a config keeps every promise that the rest of the program relies on."""
    total_nodes = config.total_nodes or MAX_TOTAL_NODES[config.dataplane or HashFamily.NFTABLES]
    return (
        1 <= config.my_id <= total_nodes <= MAX_TOTAL_NODES[config.dataplane or HashFamily.NFTABLES]
        and 1 <= len(config.vips) == len({*config.vips}) <= MAX_VIPS
        and not any(
            vip.is_multicast or vip.is_loopback or vip.is_unspecified for vip in config.vips
        )
        and (
            config.interface is None
            or (0 < len(config.interface.encode()) < 16 and '"' not in config.interface)
        )
        and (config.hash_seed is None or 0 <= config.hash_seed < SEED_LIMIT)
        and (
            config.cluster_mac is None
            or re.fullmatch(r"[0-9a-f][13579bdf](:[0-9a-f]{2}){5}", config.cluster_mac) is not None
        )
        and 0.1 <= config.session_timeout_s <= 3600
        and 0 <= config.weight <= MAX_WEIGHT
        and 0 <= config.drain_timeout_s <= 86_400
        and str(config.zk).isprintable()
        and all(re.fullmatch(r".+:[1-9][0-9]*", server) for server in config.zk.hosts.split(","))
        and not config.zk.chroot.endswith("/")
    )


@given(st.dictionaries(st.sampled_from(sorted(DEFAULTS)), junk, max_size=3))
@settings(deadline=None, max_examples=400)
def test_whatever_is_given_is_valid_or_refused_in_one_printable_line(flags: dict[str, str]) -> None:
    outcome = attempt(lambda: parse({**LEFT_OUT, **flags}, DEFAULTS))
    if isinstance(outcome, Config):
        assert valid(outcome)
    else:
        assert str(outcome).isprintable()
        assert any(
            str(outcome).startswith(
                (f"{flag}={printable(value)}: ", f"{flag}=…: ", f"{flag}=digest:…: ")
            )
            for flag, value in flags.items()
        )


words = st.one_of(
    st.text(st.characters(), max_size=10),
    st.sampled_from(
        [
            *DEFAULTS,
            *SWITCHES,
            "-v",
            "-vv",
            "-h",
            "--version",
            "--",
            "-",
            "--help=1",
            "--no",
            "1",
            "--my=3",
            "--dry-run=1",
            "-v3",
            "--=",
            "-=1",
        ]
    ),
    st.tuples(st.sampled_from(sorted(DEFAULTS)), junk).map("=".join),
)


@given(st.lists(words, max_size=5))
@example(["--my-id"])
@example(["--my-id=1", "--my-id=1"])
@settings(deadline=None, max_examples=400)
def test_no_command_line_makes_anything_but_a_config_an_error_or_the_help(argv: list[str]) -> None:
    outcome = attempt(lambda: command_line.read(argv))
    match outcome:
        case Config():
            assert valid(outcome)
        case ConfigError():
            assert str(outcome).isprintable()
            assert str(outcome) != ""
        case SystemExit():
            assert outcome.code in (None, 0)
            assert any(word.startswith("-") for word in argv)


@given(st.text(st.characters()))
def test_printable_is_and_leaves_alone_what_was(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(text) == text or not text.isprintable()
