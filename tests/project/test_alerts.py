"""The alert rules and the dashboard that ship with the package, judged by Prometheus itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.project.conftest import run
from tests.support.prometheus import ROOT, SHIPPED, program

ALERTS = SHIPPED / "alerts.yml"
WHERE = 'vip="198.51.100.1",instance="s1:9105",job="maglev0"'
MINUTES = 70  # that the series of each case last
BAD_FROM = 65  # minutes into it, what was well is not


def test_the_examples_for_the_daemon_and_for_prometheus_name_the_same_port() -> None:
    daemon = (ROOT / "maglev0" / "runtime" / "systemd" / "example.toml").read_text()
    ports = re.findall(r'^#?metrics = ".*:(\d+)"$', daemon, re.MULTILINE)
    scrape = (SHIPPED / "scrape.yml").read_text()
    scraped = re.findall(r"(?:- s\d|--metrics=ADDRESS):(\d+)", scrape)
    assert len(ports) == 1
    assert len(scraped) == 4
    assert set(scraped) == set(ports)


class Case(NamedTuple):
    """What fires an alert: series that change at `BAD_FROM`; name, labels, values before, after."""

    alert: str
    series: tuple[tuple[str, str, float | str, float | str], ...]


def gauge(
    name: str, well: float, bad: float, labels: str = ""
) -> tuple[str, str, float | str, float | str]:
    return f"maglev0_{name}", labels, well, bad


MEMBERS = (gauge("members", 3, 0, 'state="active"'), gauge("members", 0, 3, 'state="failing"'))
SHARE = gauge("buckets_share", 21846, 21846)
CASES = (
    Case("Maglev0Overlap", (gauge("buckets_overlapping", 0, 2),)),
    Case("Maglev0Hole", (gauge("buckets_unowned", 0, 5),)),
    Case("Maglev0ShareMissed", (SHARE, gauge("buckets_owned", 21846, 21845))),
    Case(
        "Maglev0MemberMissing",
        (gauge("members", 3, 2, 'state="active"'), gauge("members", 1, 1, 'state="draining"')),
    ),
    Case(
        "Maglev0TooFewMembers",
        (gauge("members", 2, 1, 'state="active"'), gauge("members", 1, 2, 'state="draining"')),
    ),
    Case(
        "Maglev0LeaseExpired",
        (SHARE, gauge("lease_left_seconds", 2, 0), gauge("lease_seconds", 2, 2)),
    ),
    Case(
        "Maglev0RenewalsLate",
        (SHARE, gauge("lease_left_seconds", 1.6, 0.9), gauge("lease_seconds", 2, 2)),
    ),
    Case(
        "Maglev0ZooKeeperAway",
        (
            gauge("zookeeper_state", 1, 0, 'state="connected"'),
            gauge("zookeeper_state", 0, 1, 'state="suspended"'),
        ),
    ),
    Case("Maglev0HostFault", (gauge("able", 1, 0),)),
    Case("Maglev0AllFailing", MEMBERS),
    Case("Maglev0CheckFailing", (gauge("check_up", 1, 0, 'check="tcp:80"'),)),
    Case(
        "Maglev0SlowHandover",
        (
            ("maglev0_handover_seconds_bucket", 'phase="acquired",le="0.05"', "0+2x", "130+0x"),
            ("maglev0_handover_seconds_bucket", 'phase="acquired",le="2.5"', "0+2x", "130+1x"),
            ("maglev0_handover_seconds_bucket", 'phase="acquired",le="+Inf"', "0+2x", "130+1x"),
        ),
    ),
    Case(
        "Maglev0ConntrackNearlyFull",
        (gauge("conntrack_entries", 200, 950), gauge("conntrack_entries_limit", 1000, 1000)),
    ),
    Case("Maglev0Errors", (("maglev0_errors_total", 'kind="kernel"', "0+0x", "0+2x"),)),
    Case("Maglev0TargetDown", (("up", "", 1, 0),)),
    Case("Maglev0SnapshotOld", (gauge("snapshot_age_seconds", 2, 300),)),
)
# Which other alerts tell of the same; all others stay silent.
BESIDE = {
    "Maglev0AllFailing": {"Maglev0TooFewMembers"},
    "Maglev0TooFewMembers": set(),
    "Maglev0LeaseExpired": {"Maglev0RenewalsLate"},
}


def _values(well: float | str, bad: float | str) -> str:
    """Both parts in promtool's notation, one value for each minute."""
    first = f"{well}{BAD_FROM - 1}" if isinstance(well, str) else f"{well}+0x{BAD_FROM - 1}"
    then = f"{bad}{MINUTES - BAD_FROM}" if isinstance(bad, str) else f"{bad}+0x{MINUTES - BAD_FROM}"
    return f"{first} {then}"


def _test(case: Case) -> dict[str, Any]:
    def firing(at_minutes: float, alerts: set[str]) -> dict[str, Any]:
        samples = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(alerts)]
        return {
            "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
            "eval_time": f"{int(60 * at_minutes)}s",
            "exp_samples": samples,
        }

    inputs = [
        {
            "series": f"{name}{{{WHERE}{',' if labels else ''}{labels}}}",
            "values": _values(well, bad),
        }
        for name, labels, well, bad in case.series
    ]
    return {
        "interval": "1m",
        "input_series": inputs,
        "promql_expr_test": [
            firing(BAD_FROM - 0.5, set()),
            firing(MINUTES - 0.5, {case.alert} | BESIDE.get(case.alert, set())),
        ],
    }


def alerts() -> list[str]:
    """The alerts that there are, as their file names them."""
    return [
        line.split()[2]
        for line in ALERTS.read_text().splitlines()
        if line.strip().startswith("- alert:")
    ]


def test_promtool_finds_nothing_wrong() -> None:
    assert f"{len(alerts())} rules found" in run(
        program("promtool"), "check", "rules", "--lint=all", "--lint-fatal", ALERTS
    )
    run(program("promtool"), "check", "config", "--syntax-only", SHIPPED / "scrape.yml")


def test_each_alert_has_a_case() -> None:
    assert sorted(case.alert for case in CASES) == sorted(alerts())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_fires_when_it_should_and_only_then(case: Case, tmp_path: Path) -> None:
    rules = tmp_path / "tests.yml"
    rules.write_text(
        json.dumps(
            {"rule_files": [str(ALERTS)], "evaluation_interval": "15s", "tests": [_test(case)]}
        )
    )
    run(program("promtool"), "test", "rules", rules)


def test_each_alert_says_what_happened_what_it_means_and_what_to_do() -> None:
    text = ALERTS.read_text()
    for part in ("summary:", "description:", "action:", "severity:"):
        assert text.count(f"  {part}") == len(alerts())
