"""`maglev0 doctor` on real nodes: each planted fault is found by its own check, and no other."""

from __future__ import annotations

import re
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from maglev0.core.settings import derived_mac
from maglev0.dataplane.conntrack import message as ctmessage
from maglev0.dataplane.conntrack.message import Connection, ConntrackEntry, TcpState
from maglev0.dataplane.netlink.message import ACK, NETLINK_NETFILTER
from maglev0.lab.testbed import addresses
from maglev0.lab.testbed.cluster import SETTLE_TIMEOUT_S, Lab, LabSettings
from maglev0.lab.testbed.node import INTERFACE
from maglev0.lab.testbed.process import python_module
from maglev0.operator.doctor import cluster_state, examination, member_state
from maglev0.operator.doctor.arp import judge as arp
from maglev0.operator.doctor.ensemble import judge as ensemble
from maglev0.operator.doctor.filters import judge as filters
from maglev0.operator.doctor.finding import Severity
from maglev0.operator.doctor.machine import judge as kernel
from maglev0.operator.doctor.network import judge as network
from tests.support.doctor import PROBE_FOR_S, SPARE, Site, doctor
from tests.support.one_host import one_host

pytestmark = [pytest.mark.kernel, pytest.mark.zookeeper]

# Four machines; the last is not a member. Sessions are long, because a test stops a daemon for the
# time of one examination.
SETTINGS = LabSettings(nodes=4, total_nodes=251, dataplane="nftables", session_timeout_s=4.0)
MEMBERS = (1, 2, 3)
CLUSTER_MAC = derived_mac(addresses.VIP)
SECOND_VIP = "198.51.100.2"
CLIENT = b"\xaa\xbb\xcc\xdd"  # in a message, in place of an address
MESSAGES = 256  # sent at once
FAULT, WARNING, LEFT_OUT = Severity.FAULT, Severity.WARNING, Severity.LEFT_OUT


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Lab(SETTINGS) as made:
        for number in MEMBERS:
            made.nodes[number].start_daemon(f"--xdp={'off' if number == 1 else 'auto'}")
        made.settle()
        yield Site(made)


def test_a_sound_machine_raises_no_alarm(site: Site) -> None:
    """With and without XDP, and on a machine that is to become a node."""
    for number, diagnosis in enumerate(site.examine_all(*MEMBERS, SPARE), 1):
        assert diagnosis.alarms == set()
        assert not any(
            found["severity"] == LEFT_OUT and number != SPARE for found in diagnosis.findings
        )


def test_a_reverse_path_filter_that_refuses_clients(site: Site) -> None:
    strict = f"net.ipv4.conf.{INTERFACE}.rp_filter"
    asymmetric = site.planted(
        2, "ip route add default via 198.19.1.1", "ip route del default via 198.19.1.1"
    )
    with asymmetric, site.planted(2, f"sysctl -qw {strict}=1", f"sysctl -qw {strict}=0"):
        assert site.examine(2).alarms == {(FAULT, network.REVERSE_PATH)}
        # The fix that it names works: the filter is loose then.
        site.run(2, "sysctl", "-qw", f"{strict}=2")
        assert site.examine(2).alarms == set()


def test_arp_that_is_not_answered_is_found_on_the_node_and_from_others(site: Site) -> None:
    name = f"net.ipv4.conf.{INTERFACE}.arp_ignore"
    with site.planted(2, f"sysctl -qw {name}=2", f"sysctl -qw {name}=0"):
        from_another, from_itself = site.examine_all(1, 2)
    assert from_itself.alarms == {(FAULT, network.ARP)}
    assert from_another.alarms == {(FAULT, arp.VIP_MAC)}
    assert "backend-2 (198.18.0.2) does not answer ARP" in from_another.words(arp.VIP_MAC)


def test_a_host_that_holds_the_vip_outside_the_rules(site: Site) -> None:
    address = f"{addresses.VIP}/32 dev {INTERFACE}"
    with site.planted(SPARE, f"ip address add {address}", f"ip address del {address}"):
        from_another, from_itself = site.examine_all(1, SPARE)
    assert from_itself.alarms == {(FAULT, network.VIP_PLACE)}
    assert from_another.alarms == {(FAULT, arp.VIP_MAC)}
    assert addresses.node_mac(SPARE) in from_another.words(arp.VIP_MAC)


def test_a_network_card_that_does_not_listen_for_the_cluster_mac(site: Site) -> None:
    daemon = site.cluster.nodes[3].daemon
    daemon.signal(signal.SIGSTOP)  # or it would put the MAC back
    try:
        with site.planted(
            3,
            f"ip maddress del {CLUSTER_MAC} dev {INTERFACE}",
            f"ip maddress add {CLUSTER_MAC} dev {INTERFACE}",
        ):
            assert site.examine(3).alarms == {(FAULT, network.MAC_FILTER)}
    finally:
        daemon.signal(signal.SIGCONT)


def test_a_switch_that_does_not_flood_to_one_port(site: Site) -> None:
    with site.switch(
        site.cluster.nodes[2].machine.traffic_cable, "mcast_flood off", "mcast_flood on"
    ):
        here, there = site.examine_all(2, 1)
    assert here.alarms == {(FAULT, arp.HERE)}
    assert there.alarms == {(FAULT, arp.THERE)}
    assert "backend-2" in there.words(arp.THERE)
    assert "backend-3" not in there.words(arp.THERE)


def test_rules_of_others_that_drop_the_vips_packets(site: Site) -> None:
    by_address = f"type filter hook input priority 0; ip daddr {addresses.VIP} drop;"
    by_kind = "type filter hook prerouting priority -300; meta pkttype multicast drop;"
    usual = (
        "type filter hook input priority 0; policy drop; ct state established accept;"
        " tcp dport { 22, 8000 } accept;"
    )
    with site.rules(1, by_address), site.rules(2, by_kind), site.rules(3, usual):
        found = site.examine_all(1, 2, 3)
    assert [diagnosis.alarms for diagnosis in found] == [
        {(FAULT, filters.DROPS)},
        {(FAULT, filters.DROPS)},
        set(),
    ]


def test_rules_of_others_that_keep_packets_from_connection_tracking(site: Site) -> None:
    notrack = (
        "type filter hook prerouting priority -300;"
        f" ip daddr {addresses.VIP} tcp dport 8000 notrack;"
    )
    legacy = f"iptables-legacy -t raw %s PREROUTING -d {addresses.VIP} -p tcp -j CT --notrack"
    with site.rules(1, notrack), site.planted(2, legacy % "-A", legacy % "-D"):
        found = site.examine_all(1, 2)
    assert [diagnosis.alarms for diagnosis in found] == [{(FAULT, filters.UNTRACKED)}] * 2


def test_a_session_that_is_granted_longer_than_it_is_asked_for(site: Site) -> None:
    diagnosis = site.examine(1, "--session-timeout=0.25")
    assert diagnosis.alarms == {
        (WARNING, ensemble.SESSION),
        (WARNING, ensemble.LEASE),
    }  # the cluster's lease is for sessions of 4 s
    assert "grants sessions of 0.4 s, not 0.25 s as requested" in diagnosis.words(ensemble.SESSION)


def test_a_machine_whose_configuration_contradicts_the_cluster(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "maglev0.toml"
    file.write_text(f'my-id = 2\ntotal-nodes = 7\nzk = "{site.cluster.zookeeper.connect_string}"\n')
    diagnosis = site.examine(1, f"--config={file}")
    assert diagnosis.alarms == {(FAULT, cluster_state.IDENTITIES), (FAULT, cluster_state.SETTINGS)}
    assert addresses.node_mac(2) in diagnosis.words(cluster_state.IDENTITIES)


def test_the_vip_on_a_second_interface(site: Site) -> None:
    announced = site.cluster.nodes[3].announcements()
    with site.planted(
        3,
        f"ip address add {addresses.VIP}/32 dev eth1",
        f"ip address del {addresses.VIP}/32 dev eth1",
    ):
        assert (FAULT, network.VIP_PLACE) in site.examine(3).alarms
    site.cluster.nodes[3].wait_announcements(announced + 1, SETTLE_TIMEOUT_S)
    site.cluster.settle()


def test_a_member_whose_clock_is_ahead(site: Site) -> None:
    with site.onlooker(f"--cluster-ip={addresses.VIP}", ahead_s=300.0):
        diagnosis = site.examine(1)
    site.cluster.settle()
    assert diagnosis.alarms == {(WARNING, member_state.CLOCKS)}
    assert re.search(
        "backend-4 is about (29[0-9]|300) s ahead of this", diagnosis.words(member_state.CLOCKS)
    )


def test_two_vips_with_one_cluster_mac(site: Site) -> None:
    with site.onlooker(f"--cluster-ip={SECOND_VIP}", f"--cluster-mac={CLUSTER_MAC}"):
        diagnosis = site.examine(1)
    assert diagnosis.alarms == {(WARNING, cluster_state.MACS)}


def test_missing_rights_are_said_and_the_rest_goes_on(site: Site) -> None:
    without = ("setpriv", "--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw")
    diagnosis = site.examine(1, prefix=without)
    assert diagnosis.alarms == {(FAULT, kernel.DATAPLANE)}
    left_out = {found["check"] for found in diagnosis.findings if found["severity"] == LEFT_OUT}
    assert left_out >= {filters.DROPS, filters.UNTRACKED, arp.VIP_MAC, arp.HERE, arp.THERE}
    assert cluster_state.OWNERS in {found["check"] for found in diagnosis.findings}


def test_what_it_prints_for_people(site: Site) -> None:
    arguments = (
        "-m",
        "maglev0",
        "doctor",
        f"--zk={site.cluster.zookeeper.connect_string}",
        f"--probe-for={PROBE_FOR_S}",
        "-v",
    )
    lines = site.run(1, python_module("")[0], *arguments).splitlines()
    assert (
        "ok: the VIP's MAC: 2 other hosts answer for 198.51.100.1, all with 03:bf:c6:33:64:01"
        in lines
    )
    assert re.fullmatch(r"\d\d checks, 0 faults, 0 warnings", lines[-1])
    assert "\x1b" not in "".join(lines), "plain text where there is no terminal"


def test_what_a_killed_daemon_left(site: Site) -> None:
    node = site.cluster.nodes[3]
    node.kill_daemon()
    site.cluster.settle((1, 2))
    assert site.examine(3).alarms == {(WARNING, network.VIP_PLACE)}
    node.start_daemon()
    site.cluster.settle()


def test_without_zookeeper_and_with_a_full_connection_table() -> None:
    with one_host() as host:
        fill_connection_tracking()
        diagnosis = doctor(host.name, "--zk=127.0.0.1:1", f"--interface={INTERFACE}")
    assert diagnosis.alarms == {
        (FAULT, examination.ZOOKEEPER),
        (FAULT, ensemble.SERVERS),
        (FAULT, kernel.CONNTRACK),
    }
    assert {network.REVERSE_PATH, filters.DROPS, arp.VIP_MAC} <= {
        found["check"] for found in diagnosis.findings
    }


def fill_connection_tracking() -> None:
    """Add connections in this thread's namespace until the table is full."""
    most = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    template = unacknowledged(CLIENT)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
        for start in range(0, most, MESSAGES):
            clients = (
                struct.pack("!I", 0x0A000000 + number)
                for number in range(start, min(start + MESSAGES, most))
            )
            netlink.send(b"".join(template.replace(CLIENT, client) for client in clients))


def unacknowledged(client: bytes) -> bytes:
    """The message that adds a client's connection, without asking for an acknowledgement."""
    connection = Connection(client + struct.pack("!HH", 40_000, 80))
    message = ctmessage.create(
        0, ConntrackEntry(addresses.VIP, connection, TcpState.ESTABLISHED, 600)
    )
    flags = struct.unpack_from("=H", message, 6)[0] & ~ACK
    return message[:6] + struct.pack("=H", flags) + message[8:]
