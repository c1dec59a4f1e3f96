"""The doctor judges ZooKeeper's servers: answers, granted sessions, time of writes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from maglev0.operator.doctor.ensemble import judge as ensemble
from maglev0.operator.doctor.ensemble.judge import ServerReading
from maglev0.operator.doctor.finding import Finding, Severity
from maglev0.protocol.lease import terms

SRVR = """\
Zookeeper version: 3.8.0-${mvnbuild.number}, built on 2023-02-15 16:03 UTC
Latency min/avg/max: 0/0.4/12
Mode: follower
Node count: 12
"""
CONF = """\
clientPort=2181
dataDir=/var/lib/zookeeper
tickTime=500
maxSessionTimeout=10000
serverId=1
syncLimit=2
"""
LEASE = terms(2667)
ONE = ServerReading("zk1:2181", "", "3.8.0", "standalone", 4.0, 4.0, 1.0, 10.0)
THREE = [
    replace(
        ONE,
        address=f"zk{number}:2181",
        mode="leader" if number == 1 else "follower",
        conf=ensemble.read_conf(CONF),
    )
    for number in (1, 2, 3)
]


def marks(findings: list[Finding]) -> list[tuple[Severity, str]]:
    return [
        (finding.severity, finding.check)
        for finding in findings
        if finding.severity is not Severity.SOUND
    ]


def test_answers_are_read() -> None:
    assert ensemble.read_srvr(SRVR) == ("3.8.0", "follower")
    assert ensemble.read_srvr("srvr is not executed because it is not in the whitelist.\n") == (
        "",
        "",
    )
    assert ensemble.read_conf(CONF) == {
        "clientPort": 2181,
        "tickTime": 500,
        "maxSessionTimeout": 10000,
        "serverId": 1,
        "syncLimit": 2,
    }
    assert ensemble.read_conf("conf is not executed because it is not in the whitelist.\n") == {}


def test_a_sound_ensemble() -> None:
    assert marks(ensemble.judge(THREE)) == []
    assert marks(ensemble.judge_times(THREE, LEASE)) == []
    assert marks(ensemble.judge_times(THREE, None)) == []
    assert marks(ensemble.judge_writes([0.001, 0.004], LEASE)) == []


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        ([ONE], [(Severity.NOTE, ensemble.QUORUM)]),
        (
            [replace(ONE, problem="refuses connections", mode="")],
            [(Severity.FAULT, ensemble.SERVERS), (Severity.LEFT_OUT, ensemble.QUORUM)],
        ),
        (
            [*THREE[:2], ServerReading("zk3:2181", problem="does not answer")],
            [(Severity.WARNING, ensemble.SERVERS)],
        ),
        ([ONE, replace(ONE, address="zk2:2181")], [(Severity.FAULT, ensemble.QUORUM)]),
        (THREE[:2], [(Severity.NOTE, ensemble.QUORUM)]),
        ([*THREE[:2], replace(THREE[2], version="3.9.1")], [(Severity.NOTE, ensemble.QUORUM)]),
    ],
)
def test_servers(servers: list[ServerReading], expected: list[tuple[Severity, str]]) -> None:
    assert marks(ensemble.judge(servers)) == expected


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"granted_s": 6.0}, [(Severity.WARNING, ensemble.SESSION)]),
        ({"granted_s": 6.0, "least_s": None}, [(Severity.WARNING, ensemble.SESSION)]),
        (
            {"granted_s": 2.0},
            [(Severity.WARNING, ensemble.SESSION), (Severity.WARNING, ensemble.LEASE)],
        ),
        ({"granted_s": 2.0, "asked_s": 2.0}, [(Severity.WARNING, ensemble.LEASE)]),
        (
            {"granted_s": None},
            [
                (Severity.LEFT_OUT, check)
                for check in (ensemble.SESSION, ensemble.LEASE, ensemble.ELECTION)
            ],
        ),
        ({"mode": "leader"}, [(Severity.LEFT_OUT, ensemble.ELECTION)]),
        (
            {"mode": "leader", "conf": {"tickTime": 2000, "syncLimit": 5}},
            [(Severity.WARNING, ensemble.ELECTION)],
        ),
        ({"mode": "leader", "conf": {"tickTime": 200, "syncLimit": 5}}, []),
    ],
)
def test_times(changed: dict[str, Any], expected: list[tuple[Severity, str]]) -> None:
    assert marks(ensemble.judge_times([replace(ONE, **changed)], LEASE)) == expected


def test_who_else_may_write() -> None:
    assert marks(ensemble.judge_access(identity=False, tls=True)) == [
        (Severity.NOTE, ensemble.ACCESS)
    ]
    assert marks(ensemble.judge_access(identity=True, tls=False)) == [
        (Severity.NOTE, ensemble.ACCESS)
    ]
    assert marks(ensemble.judge_access(identity=True, tls=True)) == []


def test_writes() -> None:
    assert marks(ensemble.judge_writes([], LEASE)) == [(Severity.LEFT_OUT, ensemble.WRITES)]
    assert marks(ensemble.judge_writes([0.01, 0.7], LEASE)) == [(Severity.WARNING, ensemble.WRITES)]
    assert marks(ensemble.judge_writes([0.01, 2.5], LEASE)) == [(Severity.FAULT, ensemble.WRITES)]
