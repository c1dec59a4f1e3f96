"""`maglev0 man`: the list of pages, one page, its man page, and the pager in a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from maglev0.errors import ConfigError
from maglev0.operator.shell import help_page, man, manual, topic_page

TOPICS = manual.topics()


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert man.main([*words]) == 0
    answer = capsys.readouterr()
    assert answer.err == ""
    return answer.out


def test_without_a_topic_the_pages_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys).splitlines()
    assert [line.split()[0] for line in lines] == [*TOPICS]
    assert "architecture" in TOPICS
    for topic, line in zip(TOPICS, lines, strict=True):
        assert line.partition("  ")[2].strip() == manual.summary(manual.text(topic))


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_begins_with_its_title_and_what_it_is_about(topic: str) -> None:
    title, paragraph = manual.text(topic).split("\n\n")[:2]
    assert title.startswith("# ")
    assert paragraph.startswith("This page ")
    assert 10 < len(manual.summary(manual.text(topic))) < 200


def test_where_no_terminal_is_the_page_is_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "limits") == manual.text("limits")


def test_roff_is_for_troff(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--roff", "limits") == topic_page.page("limits", manual.text("limits"))
    assert printed(capsys, "maglev0") == printed(capsys, "--roff", "maglev0") == help_page.page()


def test_an_unknown_page_is_one_line_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert man.main(["operation"]) == ConfigError.exit_status
    assert capsys.readouterr().err == (
        "maglev0: there is no manual page 'operation'; did you mean operations? "
        f"the pages are {', '.join(TOPICS)}\n"
    )
    assert man.main(["../errors\x1b"]) == ConfigError.exit_status
    assert capsys.readouterr().err == (
        f"maglev0: there is no manual page '../errors\\x1b'; the pages are {', '.join(TOPICS)}\n"
    )


def in_terminal(environment: Mapping[str, str]) -> tuple[int, str]:
    """What `maglev0 man limits` shows in a terminal, and its exit status."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "maglev0", "man", "limits"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={"PATH": os.environ["PATH"], "TERM": "xterm", **environment},
        start_new_session=True,
    ) as process:
        os.close(theirs)
        seen = b""
        try:
            while block := os.read(ours, 4096):
                seen += block
        except OSError:  # EIO: the other end is closed
            pass
        os.close(ours)
    return process.returncode, seen.decode()


def test_in_a_terminal_the_pager_shows_it(tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text('#!/bin/sh\necho "pager $1 $LESS"\ncat\n')
    pager.chmod(0o755)
    status, text = in_terminal({"PAGER": f"{pager} --flag"})
    assert status == 0
    assert text.startswith("pager --flag -R\r\n")
    assert "Clients" in text
    assert "## Clients" not in text


@pytest.mark.parametrize("pager", ["/nowhere/pager", "'"])
def test_without_a_pager_the_terminal_shows_it(pager: str) -> None:
    status, text = in_terminal({"PAGER": pager})
    assert status == 0
    assert "Clients" in text


def test_a_pager_that_reads_nothing_is_no_error() -> None:
    assert in_terminal({"PAGER": "true"}) == (0, "")
