"""What the telemetry sink of a daemon does at a reload."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from maglev0.config.configuration import Config
from maglev0.telemetry.sink import DaemonSink
from tests.support.configs import config

METRICS = "127.0.0.1", 0


def reloaded(before: Config, *after: Config) -> None:
    """A sink that starts with one configuration and takes others."""
    sink = DaemonSink(before)
    sink.start()
    try:
        for each in after:
            sink.reload(each)
    finally:
        asyncio.run(sink.close())


def test_metrics_that_a_reload_adds_name_the_counters_that_need_a_restart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    without = replace(config(), dry_run=False)
    given = replace(without, metrics=METRICS)
    reloaded(without, given)
    (line,) = caplog.messages
    assert "early stage" in line
    assert "until a restart" in line


@pytest.mark.parametrize("dry_run", [True, False])
def test_metrics_that_lack_nothing_are_no_line(
    caplog: pytest.LogCaptureFixture, dry_run: bool
) -> None:
    without = replace(config(), dry_run=dry_run)
    given = replace(without, metrics=METRICS)
    reloaded(given, without, given)
    if dry_run:
        reloaded(without, given)
    assert caplog.messages == []
