"""`maglev0 explain` on a whole cluster: its answer on each node, and which node then answers."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pytest

from maglev0.core.service import HashMode
from maglev0.lab.testbed import addresses, namespace
from maglev0.lab.testbed.cluster import Lab, LabSettings
from maglev0.lab.testbed.node import INTERFACE
from maglev0.lab.testbed.process import python_module, wait_for
from maglev0.operator.explain import command as explain
from tests.kernel.clients import ANSWER_S, client_socket

pytestmark = [pytest.mark.kernel, pytest.mark.zookeeper]

SEED = 3_735_928_559
SETTINGS = LabSettings(
    nodes=3,
    total_nodes=251,
    dataplane="nftables",
    session_timeout_s=2.0,
    more_flags=(f"--hash-mode={HashMode.SOURCE_IP_PORT_DEST_PORT}", f"--hash-seed={SEED}"),
)
# The chance that none of the connections moves to a third node is one in ten million.
DATAGRAMS, CONNECTIONS = 12, 40


@pytest.fixture(scope="module")
def cluster() -> Iterator[Lab]:
    """Two of its three daemons run."""
    with Lab(SETTINGS) as made:
        for number in (1, 2):
            made.nodes[number].start_daemon()
        made.settle()
        yield made


class Asker(NamedTuple):
    """Runs the command on the machines of a cluster, in this process."""

    cluster: Lab
    capsys: pytest.CaptureFixture[str]

    def run(self, in_namespace: str, *arguments: str) -> tuple[int, str, str]:
        flags = (f"--zk={self.cluster.zookeeper.connect_string}", f"--cluster-ip={addresses.VIP}")
        with namespace.inside(in_namespace):
            status = explain.main([*arguments, *flags])
        written = self.capsys.readouterr()
        assert str(SEED) not in written.out + written.err
        assert f"{SEED:x}" not in written.out + written.err
        return status, written.out, written.err

    def on(self, number: int, *arguments: str) -> dict[str, Any]:
        machine = self.cluster.nodes[number].machine
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("MAGLEV0_BPFFS", str(machine.bpf_file_system))
            status, out, err = self.run(machine.namespace, "--json", *arguments)
        assert (status, err) == (0, "")
        found: dict[str, Any] = json.loads(out)
        return found


@pytest.fixture
def asker(cluster: Lab, capsys: pytest.CaptureFixture[str]) -> Asker:
    return Asker(cluster, capsys)


@contextmanager
def connected(cluster: Lab, client: int, kind: socket.SocketKind) -> Iterator[socket.socket]:
    """To the service at the VIP."""
    with client_socket(cluster, client, kind) as sock:
        sock.connect((str(addresses.VIP), addresses.SERVICE_PORT))
        yield sock


def flow_of(sock: socket.socket) -> tuple[str, str]:
    address, port = sock.getsockname()
    return f"{address}:{port}", str(addresses.SERVICE_PORT)


def test_the_one_node_whose_kernel_is_said_to_accept_a_datagram_answers_it(
    cluster: Lab, asker: Asker
) -> None:
    for client in range(DATAGRAMS):
        with connected(cluster, client, socket.SOCK_DGRAM) as sock:
            answers = {
                number: asker.on(number, *flow_of(sock), "--protocol=udp") for number in (1, 2)
            }
            accepting = {
                f"backend-{number}"
                for number, answer in answers.items()
                if answer["kernel"]["new_flow"]["accepts"]
            }
            sock.send(b"who?")
            assert (
                accepting
                == {sock.recv(100).split()[-1].decode()}
                == {answer["owner"]["name"] for answer in answers.values()}
            )
            assert all(
                answer["kernel"]["interface"] == INTERFACE
                and answer["kernel"]["connection"] is None
                for answer in answers.values()
            )


def test_a_node_keeps_a_connection_whose_bucket_moved_and_says_so(
    cluster: Lab, asker: Asker
) -> None:
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(connected(cluster, client, socket.SOCK_STREAM))
            for client in range(CONNECTIONS)
        ]
        cluster.nodes[3].start_daemon()
        cluster.settle()
        sock = next(
            sock for sock in sockets if asker.on(3, *flow_of(sock))["owner"]["name"] == "backend-3"
        )
        wait_for(
            lambda: asker.on(1, *flow_of(sock))["before_known"] or None,
            [],
            ANSWER_S,
            "a report under the new view",
        )
        answers = {number: asker.on(number, *flow_of(sock)) for number in cluster.nodes}
        former = int(answers[3]["before"]["name"].removeprefix("backend-"))
        assert former in (1, 2)
        assert {
            number: answer["kernel"]["new_flow"]["accepts"] for number, answer in answers.items()
        } == {1: False, 2: False, 3: True}
        held = {
            number
            for number, answer in answers.items()
            if answer["kernel"]["connection"]["accepts"]
        }
        assert held == {former}
        assert answers[former]["kernel"]["connection"]["state"] == "ESTABLISHED"
        assert answers[former]["kernel"]["new_flow"]["rule"].endswith(": drop")
        sock.send(b"still there?\n")
        assert sock.recv(100).decode().split()[-1] == f"backend-{former}"


def test_the_text_says_the_same(asker: Asker) -> None:
    status, out, _err = asker.run(
        asker.cluster.nodes[1].machine.namespace, "203.0.113.9:40000", "80"
    )
    assert status == 0
    assert out.startswith("flow        tcp from 203.0.113.9:40000 to 198.51.100.1:80\nbucket      ")
    connection = "\n  established connection (unknown here): refused by "
    for words in (
        "\nowner       backend-",
        "\nbefore      ",
        "\nthis host   nftables on eth0\n  new connection: ",
        connection,
    ):
        assert words in out


def test_a_machine_that_serves_nothing_says_so_and_answers_the_rest(asker: Asker) -> None:
    elsewhere = asker.cluster.zookeeper.servers[0].place.namespace
    assert elsewhere is not None
    status, out, _err = asker.run(elsewhere, "203.0.113.9:40000", "80")
    assert status == 0
    assert "\nowner       backend-" in out
    assert (
        "\nthis host   the kernel was not asked: there is no nftables table inet"
        " maglev0_198.51.100.1 in this network namespace" in out
    )
    status, out, _err = asker.run(elsewhere, "203.0.113.9", "--protocol=47", "--json")
    assert json.loads(out)["kernel"] is None


def test_without_rights_the_kernel_is_not_asked(cluster: Lab) -> None:
    inside = [
        "nsenter",
        f"--net={namespace.path_of(cluster.nodes[1].machine.namespace)}",
        "--",
        "setpriv",
        "--bounding-set=-net_admin",
    ]
    command = python_module(
        "maglev0",
        "explain",
        "203.0.113.9:1",
        "2",
        f"--zk={cluster.zookeeper.connect_string}",
        f"--cluster-ip={addresses.VIP}",
    )
    done = subprocess.run([*inside, *command], capture_output=True, text=True, check=True)
    assert (
        "the kernel was not asked: reading the nftables rules needs CAP_NET_ADMIN: run maglev0 as"
        " root" in done.stdout
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["203.0.113.9"],
            (
                "looks at ports: give the source port, as SRC:PORT and the destination port, as"
                " DST-PORT"
            ),
        ),
        (["203.0.113.9:1"], "looks at ports: give the destination port, as DST-PORT"),
        (
            ["203.0.113.9", "80", "--protocol=udp"],
            "looks at ports: give the source port, as SRC:PORT",
        ),
        (
            ["203.0.113.900"],
            "203.0.113.900: must be an IPv4 address, such as 203.0.113.9 or 203.0.113.9:40000",
        ),
        (["203.0.113.9:65536", "80"], "port 65536: must be a whole number from 0 to 65535"),
        (["203.0.113.9:"], "port : must be"),
        (["203.0.113.9:1", "http"], "port http: must be"),
        (
            ["203.0.113.9:1", "80", "--protocol=tpc"],
            "--protocol=tpc: must be tcp, udp, icmp or a whole number from 0 to 255",
        ),
        (["203.0.113.9:1", "80", "--protocol=256"], "--protocol=256: must be"),
        ([], "cannot read the command line"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_with_the_command_line_is_one_line(
    asker: Asker, arguments: list[str], words: str
) -> None:
    status, out, err = asker.run(asker.cluster.nodes[1].machine.namespace, *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
