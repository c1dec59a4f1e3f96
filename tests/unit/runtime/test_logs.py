from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.patience import PATIENCE_S

PROGRAM = """
import logging, sys
from maglev0.runtime import logs
logs.begin(verbose={verbose})
log = logging.getLogger("maglev0.daemon")
{body}
"""
EVERY_LEVEL = """
log.debug("nothing changed")
log.info("backend-%d joined", 3)
log.warning("lost")
log.error("cannot serve")
logging.getLogger("maglev0.kazoo").warning("attempt failed")
logging.getLogger("maglev0.kazoo").info("connecting")
"""


def environment(**additions: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
    return {**inherited, **additions}


def printed(body: str, *, verbose: bool = False, **variables: str) -> str:
    """What a program logs to stdout, having said nothing on stderr."""
    program = PROGRAM.format(verbose=verbose, body=body)
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert answer.stderr == ""
    return answer.stdout


def test_a_line_begins_with_the_time_and_its_zone() -> None:
    before = datetime.now(UTC)
    stamp, _, text = printed('log.info("joined")').partition(" ")
    time = datetime.fromisoformat(stamp)
    assert text == "joined\n"
    assert before - timedelta(milliseconds=1) <= time <= datetime.now(UTC)


def test_the_time_is_local() -> None:
    stamp = printed('log.info("joined")', TZ="XYZ-5:30").partition(" ")[0]
    assert datetime.fromisoformat(stamp).utcoffset() == timedelta(hours=5, minutes=30)


def test_the_journal_adds_its_own_time() -> None:
    # systemd.exec(5): the variable names the device and inode of the pipe that journald reads.
    reading, writing = os.pipe()
    stat = os.fstat(writing)
    program = PROGRAM.format(verbose=False, body='log.warning("lost")')
    variables = environment(JOURNAL_STREAM=f"{stat.st_dev}:{stat.st_ino}")
    subprocess.run(
        [sys.executable, "-c", program],
        env=variables,
        stdout=writing,
        timeout=PATIENCE_S,
        check=True,
    )
    os.close(writing)
    with os.fdopen(reading) as log:
        assert log.read() == "warning: lost\n"


def test_a_journal_that_reads_another_stream_adds_no_time_here() -> None:
    stamp = printed('log.info("joined")', JOURNAL_STREAM="1:2").partition(" ")[0]
    assert datetime.fromisoformat(stamp).tzinfo is not None


@pytest.mark.parametrize("verbose", [False, True])
def test_levels(verbose: bool) -> None:
    lines = [line.partition(" ")[2] for line in printed(EVERY_LEVEL, verbose=verbose).splitlines()]
    always = ["backend-3 joined", "warning: lost", "error: cannot serve"]
    assert lines == (
        ["nothing changed", *always, "warning: attempt failed", "connecting"] if verbose else always
    )


def test_other_packages_do_not_log_to_stdout() -> None:
    assert printed('logging.getLogger("asyncio").info("slow"); log.info("ours")').count("\n") == 1


def test_beginning_twice_prints_once() -> None:
    assert printed('logs.begin(verbose=False); log.info("ours")').count("\n") == 1


def test_a_line_is_out_before_the_next_begins() -> None:
    program = PROGRAM.format(verbose=False, body='log.info("joined"); sys.stdin.read()')
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().endswith(" joined\n")
        assert process.poll() is None
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


def test_a_log_that_nobody_reads_any_more_is_no_reason_for_tracebacks() -> None:
    program = PROGRAM.format(
        verbose=False,
        body='log.info("first"); sys.stdin.read(); log.info("second"); '
        'print("alive", file=sys.stderr); logging.shutdown()',
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.readline() == "alive\n"
