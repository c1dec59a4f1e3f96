from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maglev0.config.health_checks import (
    DEFAULT_TIMING,
    MAX_CHECK_CHARACTERS,
    CheckKind,
    CheckTiming,
    HealthCheck,
    parse_check,
    parse_timing,
)
from maglev0.core.text import blanked, duration, shortened
from maglev0.health.checks import MAX_PROBLEM_CHARACTERS, CheckState, Health

LOCAL = IPv4Address("127.0.0.1")
LONG_NAME = ".".join(["a" * 63] * 3)

# What is allowed, and what is read from it beside the text.
CHECKS = [
    ("tcp:80", CheckKind.TCP, {"port": 80}),
    ("tcp:65535", CheckKind.TCP, {"port": 65535}),
    ("tcp:127.0.0.1:080", CheckKind.TCP, {"address": LOCAL, "port": 80}),
    ("tcp:[::1]:80", CheckKind.TCP, {"address": IPv6Address("::1"), "port": 80}),
    ("http://", CheckKind.HTTP, {"port": 80, "path": "/"}),
    ("http://:8080/health", CheckKind.HTTP, {"port": 8080, "path": "/health"}),
    ("http://:/health", CheckKind.HTTP, {"port": 80, "path": "/health"}),
    ("http:///health?deep=1&so=on", CheckKind.HTTP, {"port": 80, "path": "/health?deep=1&so=on"}),
    ("http://?deep", CheckKind.HTTP, {"port": 80, "path": "/?deep"}),
    ("https:///", CheckKind.HTTP, {"port": 443, "path": "/", "tls": True}),
    (
        "https://www.example.com:8443/",
        CheckKind.HTTP,
        {"port": 8443, "host": "www.example.com:8443", "path": "/", "tls": True},
    ),
    (
        "http://www_1.example.com.:/",
        CheckKind.HTTP,
        {"port": 80, "host": "www_1.example.com.", "path": "/"},
    ),
    (f"http://{LONG_NAME}/", CheckKind.HTTP, {"port": 80, "host": LONG_NAME, "path": "/"}),
    (
        "http://127.0.0.1:81/",
        CheckKind.HTTP,
        {"port": 81, "address": LOCAL, "host": "127.0.0.1:81", "path": "/"},
    ),
    (
        "http://LocalHost/",
        CheckKind.HTTP,
        {"port": 80, "address": LOCAL, "host": "LocalHost", "path": "/"},
    ),
    (
        "https://[::1]:8443/a/b",
        CheckKind.HTTP,
        {
            "port": 8443,
            "address": IPv6Address("::1"),
            "host": "[::1]:8443",
            "path": "/a/b",
            "tls": True,
        },
    ),
    ("exec:/bin/true", CheckKind.EXEC, {"arguments": ("/bin/true",)}),
    (
        'exec:/opt/check \'two words\' "a\\"b" $HOME',
        CheckKind.EXEC,
        {"arguments": ("/opt/check", "two words", 'a"b', "$HOME")},
    ),
    ("file:/run/web.up", CheckKind.FILE, {"path": "/run/web.up"}),
    ("file:/run/a file: really", CheckKind.FILE, {"path": "/run/a file: really"}),
]

# What is not, and a word of what is said then.
REFUSED = [
    ("", "tcp:PORT"),
    ("80", "tcp:PORT"),
    ("ftp://example.com/", "tcp:PORT"),
    ("TCP:80", "tcp:PORT"),
    ("tcp:80\n", "printable"),
    ("file:/" + MAX_CHECK_CHARACTERS * "x", "printable"),
    ("tcp:", "1 to 65535"),
    ("tcp:0", "1 to 65535"),
    ("tcp:65536", "1 to 65535"),
    ("tcp:٣", "1 to 65535"),
    ("tcp:+8", "1 to 65535"),
    ("tcp::80", "address must be one of this host"),
    ("tcp:localhost:80", "address must be one of this host"),
    ("tcp:::1:80", "brackets"),
    ("tcp:[127.0.0.1]:80", "brackets"),
    ("tcp:[fe80::1%eth0]:80", "without a zone"),
    ("http:", "URL in ASCII"),
    ("http://:80/ü", "URL in ASCII"),
    ("http://:80/a b", "URL in ASCII"),
    ("http://[::1", "a URL, as"),
    ("http://::1/", "1 to 65535"),
    ("http://[::1]80/", "brackets"),
    ("http://[::1]:x/", "1 to 65535"),
    ("http://:80x/", "1 to 65535"),
    ("http://:99999/", "1 to 65535"),
    ("http://1.2.3/", "address must be one of this host"),
    ("http://-a/", "must be the name of the service"),
    ("http://a..b/", "must be the name of the service"),
    (f"http://{'a' * 64}/", "must be the name of the service"),
    (f"http://{'a.' * 120}!/", "must be the name of the service"),
    ("http://a/#b", "#fragment"),
    ("http://user:hunter2@example.com/", "without user and password"),
    ("http://hunter2@:80/", "without user and password"),
    ("exec:", "must be the full path"),
    ("exec:true", "must be the full path"),
    ("exec:''", "must be the full path"),
    ("exec:/bin/sh -c 'exit", "closing quotation"),
    ("file:", "must be the full path"),
    ("file:run/web.up", "must be the full path"),
]


@pytest.mark.parametrize(("text", "kind", "fields"), CHECKS)
def test_a_check_is_read(text: str, kind: CheckKind, fields: dict[str, object]) -> None:
    check = parse_check(text)
    expected: dict[str, object] = {
        "address": None,
        "port": 0,
        "host": "",
        "tls": False,
        "path": "",
        "arguments": (),
    } | fields
    assert str(check) == text
    assert check.kind is kind
    assert {name: getattr(check, name) for name in expected} == expected


@pytest.mark.parametrize(("text", "said"), REFUSED)
def test_what_is_no_check_is_refused_with_what_is_allowed_and_without_the_password(
    text: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse_check(text)
    assert " must be " in f" {caught.value}"
    assert "hunter2" not in str(caught.value)


@given(
    st.text(st.characters(max_codepoint=0x17F), max_size=80),
    st.sampled_from(["", "tcp:", "http://", "https://", "http://[", "exec:/", "file:/"]),
)
def test_no_text_does_anything_but_be_read_or_refused(text: str, prefix: str) -> None:
    with contextlib.suppress(ValueError):
        check = parse_check(prefix + text)
        assert str(check) == prefix + text
        assert (check.host + check.path).isprintable()
        assert check.kind in (CheckKind.EXEC, CheckKind.FILE) or 1 <= check.port <= 65535


@pytest.mark.parametrize(
    ("text", "timing"),
    [
        (DEFAULT_TIMING, CheckTiming(2, 1, 2, 3)),
        ("0.1, 0.05, 1, 100", CheckTiming(0.1, 0.05, 1, 100)),
        ("3600,60,100,1", CheckTiming(3600, 60, 100, 1)),
    ],
)
def test_a_timing_is_read_and_told_alike(text: str, timing: CheckTiming) -> None:
    assert parse_timing(text) == timing
    assert parse_timing(str(timing)) == timing


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "INTERVAL,TIMEOUT,RISE,FALL"),
        ("2,1,2", "INTERVAL,TIMEOUT,RISE,FALL"),
        ("2,1,2,3,4", "INTERVAL,TIMEOUT,RISE,FALL"),
        ("0.09,0.05,1,1", "interval must be 0.1 to 3600"),
        ("3601,1,1,1", "interval must be 0.1 to 3600"),
        ("nan,1,1,1", "interval must be"),
        ("1e1,1,1,1", "interval must be"),
        ("2,0.04,1,1", "timeout must be 0.05 to 60"),
        ("100,61,1,1", "timeout must be 0.05 to 60"),
        ("2,-1,1,1", "timeout must be"),
        ("2,3,1,1", "at most the interval"),
        ("2,1,0,1", "rise must be 1 to 100"),
        ("2,1,1,101", "fall must be 1 to 100"),
        ("2,1,1.5,1", "rise must be"),
        ("2,1,1,٣", "fall must be"),
    ],
)
def test_a_timing_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_timing(text)


def reference(results: list[bool], rise: int, fall: int) -> bool:
    """A slow reference: looks at the whole history for the last run of enough contrary results."""
    up = results[0]
    begin = 0
    for end in range(1, len(results) + 1):
        need = fall if up else rise
        row = results[max(begin, end - need) : end]
        if len(row) == need and all(result != up for result in row):
            up, begin = not up, end
    return up


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 5), st.integers(1, 5))
def test_rise_and_fall_are_what_the_whole_history_says(
    results: list[bool], rise: int, fall: int
) -> None:
    timing, standing = CheckTiming(2, 1, rise, fall), CheckState()
    for count, good in enumerate(results, 1):
        standing = standing.after(None if good else f"failure {count}", timing, float(count))
        assert standing.up == reference(results[:count], rise, fall)
    bad = [count for count, good in enumerate(results, 1) if not good]
    assert standing.reason == (f"failure {bad[-1]}" if bad else "")
    # Since when it stands so: the result at that time agrees, and is the first of its row.
    since = int(standing.since_s)
    assert results[since - 1] == standing.up
    assert since == 1 or results[since - 2] != standing.up


def test_all_checks_must_be_up_and_each_that_is_not_is_told() -> None:
    checks = (parse_check("tcp:80"), parse_check("file:/run/web.up"))
    health = Health(checks, CheckTiming(2, 1, 2, 3))
    assert (health.is_complete, health.is_healthy, health.problems(0)) == (False, False, ())
    health.note(1, "no such file", 10)
    assert (health.is_complete, health.is_healthy) == (False, False)
    health.note(0, None, 11)
    assert (health.is_complete, health.is_healthy, health.problems(22)) == (
        True,
        False,
        ("file:/run/web.up: no such file, for 12 s",),
    )
    health.note(1, None, 30)
    health.note(1, None, 32)
    assert (health.is_healthy, health.problems(32)) == (True, ())
    for time_s, reason in enumerate(("refused", "refused", "no result")):
        assert health.is_healthy
        health.note(0, reason, 40 + time_s)
    assert health.problems(50) == ("tcp:80: no result, for 10 s",)
    assert [check for check, _standing in health.failing] == [checks[0]]


def test_without_checks_a_node_is_healthy_at_once() -> None:
    health = Health((), CheckTiming(2, 1, 2, 3))
    assert (health.is_complete, health.is_healthy, health.problems(0)) == (True, True, ())


@given(
    st.text(max_size=400),
    st.text(st.characters(exclude_categories=["C", "Z"]), max_size=240),
    st.floats(0, 1e9),
)
def test_a_problem_is_one_printable_line_that_ends_with_how_long(
    reason: str, path: str, elapsed_s: float
) -> None:
    health = Health((HealthCheck("file:/" + path, CheckKind.FILE),), CheckTiming(2, 1, 1, 1))
    health.note(0, reason, 0.0)
    (problem,) = health.problems(elapsed_s)
    assert problem.isprintable()
    assert len(problem) <= MAX_PROBLEM_CHARACTERS
    assert problem.endswith(f", for {duration(elapsed_s)}")


def test_what_is_cut_says_so() -> None:
    assert (shortened("abc", 3), shortened("abcd", 3)) == ("abc", "ab…")
    assert blanked("a\tb\x1b[0m\u2028c") == "a b [0m c"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (172800, "2 d"),
        (8640000, "100 d"),
    ],
)
def test_durations_are_told_in_whole_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words
