"""The installed unit under a real systemd: its limits let the daemon do its whole work."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from maglev0.lab.testbed import namespace, network
from maglev0.lab.testbed.process import wait_for
from maglev0.lab.testbed.zookeeper import Ensemble, ServerLocation
from tests.project.booted import Systemd
from tests.project.conftest import Installation, run

pytestmark = [pytest.mark.kernel, pytest.mark.zookeeper]

VIP = "198.51.100.1"
ADDRESS = "198.18.0.1"  # the host's own
UNIT = "maglev0.service"
SERVES = r"backend-1 \(me!\) is responsible for node 5\n.*Nodes: +1,2,3,4,5$"
EVENT_TIMEOUT_S = (
    60.0  # of a machine whose cores are all busy; these events take under 2 s of one that is not
)

# The tests' own installation lies under /tmp, of which a service with PrivateTmp sees nothing else.
DROP_IN = """[Service]
BindReadOnlyPaths={prefix} {settings}
StandardOutput=append:{log}
StandardError=append:{log}
"""
GIVEN_UP = """[Service]
Type=oneshot
ExecStart=/bin/echo given up
StandardOutput=append:{log}
"""
# In the daemon's place, a look around.
INSTEAD = """[Service]
Restart=no
ExecStart=
ExecStart=/bin/sh -c 'for place in /run /etc /usr /var /proc/sys/net; do \\
    touch $$place/maglev0-test || echo $$place is refused; done; \\
    for place in /lib/modules /root /home; do ls $$place || echo $$place is refused; done; \\
    echo tried'
"""


@pytest.fixture
def host() -> Iterator[str]:
    """A network namespace with an interface that leads nowhere but has a carrier."""
    host = f"maglev0-service-{os.getpid()}"
    network.make_namespace(host)
    try:
        with namespace.inside(host):
            netlink = IPRoute()
        with netlink:
            netlink.link("add", ifname="eth0", kind="veth", peer={"ifname": "other"})
            index = netlink.link_lookup(ifname="eth0")[0]
            netlink.addr("add", index=index, address=ADDRESS, prefixlen=16)
            for name in ("eth0", "other"):
                netlink.link("set", ifname=name, state="up")
        yield host
    finally:
        namespace.remove(host)


@pytest.fixture
def systemd(
    host: str, installed: Installation, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Systemd]:
    units, log = tmp_path / "units", tmp_path / "log"
    drop_in = units / "maglev0.service.d/test.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text(
        DROP_IN.format(prefix=installed.prefix, settings=installed.settings, log=log)
    )
    (units / installed.unit.name).symlink_to(installed.unit)
    with (
        Ensemble(tmp_path, [ServerLocation("127.0.0.1", namespace=host)]),
        Systemd(units, log, tmp_path_factory.getbasetemp(), host) as booted,
    ):
        yield booted


SETTINGS = 'interface = "eth0"\ndataplane = "nftables"\nsession-timeout = 1\n'


@pytest.fixture
def settings(installed: Installation) -> Iterator[Path]:
    path = installed.settings / "maglev0.toml"
    path.write_text(SETTINGS)
    yield path
    path.unlink()


def in_kernel(host: str) -> str:
    """All that the daemon adds to a machine, as the kernel lists it, without the changing lease."""
    with namespace.inside(host):
        rules = re.sub(r"(?m)^.*(expires|goto lease).*\n", "", run("nft", "list", "ruleset"))
        return rules + run("ip", "-4", "address") + run("ip", "maddress", "show", "dev", "eth0")


def test_the_daemon_serves_is_restarted_and_leaves_nothing(
    systemd: Systemd, host: str, settings: Path
) -> None:
    assert settings.exists()
    before = in_kernel(host)
    assert systemd.systemctl("start", UNIT) == ""
    systemd.process.wait_line(SERVES, EVENT_TIMEOUT_S)
    serving = in_kernel(host)
    assert f"inet {VIP}/32" in serving
    assert "01:00:5e" in serving
    assert "XDP filter on eth0 (native)" in systemd.process.output(), systemd.process.output()

    systemd.systemctl("kill", "--signal=KILL", UNIT)
    wait_for(
        lambda: len(re.findall(SERVES, systemd.process.output(), re.MULTILINE)) == 2 or None,
        [systemd.process],
        EVENT_TIMEOUT_S,
        "a second start",
    )
    assert systemd.show(UNIT, "NRestarts") == "1"
    assert in_kernel(host) == serving

    assert systemd.systemctl("stop", UNIT) == ""
    assert systemd.show(UNIT, "Result") == "success"
    assert in_kernel(host) == before


def test_a_restart_of_the_unit_is_no_change_to_the_cluster(
    systemd: Systemd, host: str, settings: Path
) -> None:
    settings.write_text(SETTINGS.replace("= 1", "= 4"))
    systemd.systemctl("start", UNIT)
    systemd.process.wait_line(SERVES, EVENT_TIMEOUT_S)
    serving = in_kernel(host)
    assert systemd.systemctl("restart", UNIT) == ""
    systemd.process.wait_line(
        "resumed as backend-1, session 0x[0-9a-f]+: 5 buckets in force",
        EVENT_TIMEOUT_S,
    )
    assert in_kernel(host) == serving
    assert len(re.findall("joined as", systemd.process.output())) == 1
    assert "exiting for a restart: buckets stay in force for " in systemd.process.output()
    assert systemd.systemctl("stop", UNIT) == ""
    assert systemd.show(UNIT, "Result") == "success"


def test_it_says_how_it_does_is_reloaded_and_watched(systemd: Systemd, settings: Path) -> None:
    (systemd.units / "maglev0.service.d/impatient.conf").write_text("[Service]\nWatchdogSec=5\n")
    settings.write_text(SETTINGS + 'check = "exec:/bin/true"\n')
    assert systemd.systemctl("start", UNIT) == ""
    assert systemd.show(UNIT, "ActiveState") == "active"
    systemd.process.wait_line(SERVES, EVENT_TIMEOUT_S)
    assert "failing" not in systemd.process.output()
    wait_for(
        lambda: systemd.show(UNIT, "StatusText") or None,
        [systemd.process],
        EVENT_TIMEOUT_S,
        "a status in words",
    )

    settings.write_text(SETTINGS.replace("= 1", "= 2") + "verbose = true\n")
    assert systemd.systemctl("reload", UNIT) == ""
    systemd.process.wait_line(
        "configuration changed, in force after a restart: --session-timeout$", EVENT_TIMEOUT_S
    )
    settings.write_text(SETTINGS + "wieght = 2\n")
    assert systemd.systemctl("reload", UNIT) == ""
    systemd.process.wait_line(
        (
            f"configuration not reloaded, the former one stays in force: {settings}:4: wieght: no "
            "such key; did you mean weight"
        ),
        EVENT_TIMEOUT_S,
    )
    assert systemd.show(UNIT, "ActiveState") == "active"

    settings.write_text(SETTINGS)
    systemd.systemctl("kill", "--signal=STOP", UNIT)
    wait_for(
        lambda: systemd.show(UNIT, "NRestarts") != "0" or None,
        [systemd.process],
        EVENT_TIMEOUT_S,
        "the end of a daemon that stands still",
    )
    wait_for(
        lambda: systemd.show(UNIT, "ActiveState") == "active" or None,
        [systemd.process],
        EVENT_TIMEOUT_S,
        "another one",
    )


def test_a_stop_may_take_as_long_as_connections_are_waited_for(
    systemd: Systemd, host: str, settings: Path
) -> None:
    """Longer than the unit's own time-out, of which a stuck daemon would die."""
    (systemd.units / "maglev0.service.d/hasty.conf").write_text("[Service]\nTimeoutStopSec=1\n")
    settings.write_text(SETTINGS + "drain-timeout = 4\n")
    systemd.systemctl("start", UNIT)
    systemd.process.wait_line(SERVES, EVENT_TIMEOUT_S)
    with namespace.inside(host):
        server, client = socket.create_server((VIP, 80)), socket.socket()
    with server, client:
        client.bind(
            (ADDRESS, 0)
        )  # from the VIP to itself is a host's own talk, which nobody waits for
        client.connect((VIP, 80))
        start_s = time.monotonic()
        assert systemd.systemctl("stop", UNIT) == ""
    assert time.monotonic() - start_s > 4
    assert systemd.show(UNIT, "Result") == "success"
    assert "leaving with 1 connections" in systemd.process.output()


def test_a_mistake_in_the_flags_is_not_tried_again(systemd: Systemd, settings: Path) -> None:
    settings.write_text("my-id = 0\n")
    (systemd.units / "given-up.service").write_text(GIVEN_UP.format(log=systemd.log))
    (systemd.units / "maglev0.service.d/given-up.conf").write_text(
        "[Unit]\nOnFailure=given-up.service\n"
    )
    systemd.systemctl("start", UNIT)
    systemd.process.wait_line(f"^maglev0: {settings}:1: my-id: ", EVENT_TIMEOUT_S)
    systemd.process.wait_line("^given up$", EVENT_TIMEOUT_S)
    assert systemd.show(UNIT, "ExecMainStatus") == "2"
    assert systemd.show(UNIT, "NRestarts") == "0"


def test_it_could_write_nowhere_and_load_nothing(systemd: Systemd, settings: Path) -> None:
    assert settings.exists()
    (systemd.units / "maglev0.service.d/instead.conf").write_text(INSTEAD)
    systemd.systemctl("start", UNIT)
    systemd.process.wait_line("^tried$", EVENT_TIMEOUT_S)
    refused = re.findall("^(/.*) is refused$", systemd.process.output(), re.MULTILINE)
    assert refused == [
        "/run",
        "/etc",
        "/usr",
        "/var",
        "/proc/sys/net",
        "/lib/modules",
        "/root",
        "/home",
    ]


@pytest.mark.parametrize(
    ("missing", "complaint"),
    [
        ("CAP_NET_ADMIN", "CAP_NET_ADMIN"),
        ("CAP_NET_RAW", "CAP_NET_RAW"),
        ("CAP_BPF", "no XDP filter on eth0, .*CAP_BPF"),
    ],
)
def test_no_right_is_left_to_it_in_vain(
    systemd: Systemd, settings: Path, missing: str, complaint: str
) -> None:
    assert settings.exists()
    (systemd.units / "maglev0.service.d/zz-less.conf").write_text(
        f"[Service]\nCapabilityBoundingSet=~{missing}\n"
    )
    systemd.systemctl("start", UNIT)
    systemd.process.wait_line(complaint, EVENT_TIMEOUT_S)
