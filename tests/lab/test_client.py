"""The client notices what is really on the wire.

Faults are planted in real kernels, without a daemon.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from maglev0.lab.testbed import addresses
from maglev0.lab.testbed.cluster import Lab, LabSettings
from maglev0.lab.traffic.clients import ClientResult, Clients, Pace
from maglev0.lab.traffic.raw import RequestKind
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.kernel, pytest.mark.zookeeper]

MULTICAST_MAC = "01:00:5e:33:64:01"
PACE = Pace(tuple(range(16)), rate=300, held_rate=100, connections=20)
DEAF = addresses.prober_address(3)
# Every source has asked by then in each of the three ways.
A_WHILE_S = 0.6


@pytest.fixture(scope="module")
def cluster() -> Iterator[Lab]:
    with Lab(LabSettings(nodes=2)) as lab:
        _run(
            lab.client,
            f"ip neighbour add {addresses.VIP} lladdr {MULTICAST_MAC} nud permanent dev eth0",
        )
        yield lab


@pytest.fixture(autouse=True)
def _nothing_planted(cluster: Lab) -> Iterator[None]:
    yield
    for node in cluster.nodes.values():
        _run(node.machine.namespace, "nft flush ruleset")
        _run(node.machine.namespace, "ip address flush dev lo to 198.51.100.0/24")


def watch(
    cluster: Lab, then: Callable[[Clients], object] | None = None, pace: Pace = PACE
) -> ClientResult:
    """What the client saw, `then` having been done while it asked."""
    with Clients(cluster, pace) as clients:
        clients.wait_held()
        time.sleep(A_WHILE_S)
        if then is not None:
            then(clients)
            time.sleep(A_WHILE_S)
        return clients.stop()


def doubles(result: ClientResult) -> int:
    return sum(result.tally.is_double(number) for number in range(len(result.tally)))


def lost(result: ClientResult) -> list[int]:
    return [number for number in range(len(result.tally)) if result.tally.owner(number) is None]


def test_one_answerer_is_found_once_each_time(cluster: Lab) -> None:
    _serve(cluster, 1)
    result = watch(cluster)
    assert doubles(result) == 0
    assert lost(result) == []
    assert set(result.tally.kinds) == set(RequestKind)
    assert set(result.tally.sources) == set(PACE.sources)
    assert {result.tally.owner(number) for number in range(len(result.tally))} == {1}
    assert Counter(turn.what for turn in result.turns) == {"opened": 20}


def test_a_second_answerer_is_seen_in_every_way(cluster: Lab) -> None:
    _serve(cluster, 1)
    result = watch(cluster, lambda _clients: _serve(cluster, 2))
    twice = Counter(
        RequestKind(result.tally.kinds[number])
        for number in range(len(result.tally))
        if result.tally.is_double(number)
    )
    assert set(twice) == set(RequestKind)
    assert {turn.what for turn in result.turns} >= {"foreign", "reset"}, (
        "the second node resets what it does not know"
    )


def test_a_source_nobody_answers_is_lost_and_no_other(cluster: Lab) -> None:
    _serve(cluster, 1)
    _plant(cluster, 1, f"ip saddr {DEAF} drop")
    result = watch(cluster)
    assert {result.tally.sources[number] for number in lost(result)} == {3}
    assert all(
        result.tally.owner(number) == 1
        for number in range(len(result.tally))
        if result.tally.sources[number] != 3
    )


def test_those_who_wait_learn_when_all_are_served_again(cluster: Lab) -> None:
    _serve(cluster, 1)

    def mend(clients: Clients) -> None:
        _plant(cluster, 1, f"ip saddr {DEAF} drop")
        time.sleep(A_WHILE_S)
        assert _falls_short(clients)
        _run(
            cluster.nodes[1].machine.namespace,
            (
                "nft flush chain ip planted incoming; add rule ip planted incoming "
                "meta pkttype set host"
            ),
        )
        clients.wait_served(PATIENCE_S)

    assert lost(watch(cluster, mend)) != []


def test_a_connection_that_stalls_is_timed_and_goes_on(cluster: Lab) -> None:
    _serve(cluster, 1)

    def interrupt(clients: Clients) -> None:
        cluster.network.pull("node1")
        time.sleep(1.5)
        cluster.network.push("node1")
        clients.wait_served(PATIENCE_S)
        # TCP repeats 3.2 s after the cut at the latest (RFC 6298 from 200 ms, doubled each time).
        time.sleep(4.0)

    turns = Counter(turn.what for turn in watch(cluster, interrupt).turns)
    assert turns["opened"] == 20
    assert turns["stalled"] >= 10, "a quarter is idle, the others ask every second"
    assert set(turns) == {"opened", "stalled"}


def test_retired_connections_end_in_order_and_others_take_their_places(cluster: Lab) -> None:
    _serve(cluster, 1)

    def retire(clients: Clients) -> None:
        assert clients.held() == {1: 20}
        assert clients.retire(2) == 0
        assert clients.retire(1) == 20
        clients.wait_held()

    assert Counter(turn.what for turn in watch(cluster, retire).turns) == {
        "opened": 40,
        "closed": 20,
    }


def test_a_service_that_ends_breaks_what_it_held(cluster: Lab) -> None:
    _serve(cluster, 2)
    service = cluster.nodes[2].responder
    result = watch(cluster, lambda _clients: service.kill())
    turns = Counter(turn.what for turn in result.turns)
    assert turns["ended"] + turns["reset"] == 20
    assert turns["refused"], "nobody listens any more"
    assert doubles(result) == 0, "a refusal by the one node that there is"


def _falls_short(clients: Clients) -> bool:
    try:
        clients.wait_served(0.2)
    except Exception as error:  # noqa: BLE001  the time is over
        return "deadline exceeded" in str(error)
    return False


def _serve(cluster: Lab, number: int) -> None:
    """Have a node answer everything."""
    _run(cluster.nodes[number].machine.namespace, f"ip address add {addresses.VIP}/32 dev lo")
    rules = (
        "add table ip planted; add chain ip planted incoming { type filter "
        "hook prerouting priority -300; }"
    )
    _run(cluster.nodes[number].machine.namespace, f"nft {rules}")
    # A frame to a multicast MAC is no host's packet, which TCP would refuse.
    _plant(cluster, number, "meta pkttype set host")


def _plant(cluster: Lab, number: int, rule: str) -> None:
    _run(cluster.nodes[number].machine.namespace, f"nft add rule ip planted incoming {rule}")


def _run(namespace: str, command: str) -> str:
    program, _, arguments = command.partition(" ")
    split = [arguments] if program == "nft" else arguments.split()
    return subprocess.run(
        ["nsenter", f"--net=/run/netns/{namespace}", program, *split],
        text=True,
        check=True,
        capture_output=True,
    ).stdout


def test_the_pace_reaches_the_client_as_it_is() -> None:
    assert json.dumps(PACE.arguments()) == json.dumps(
        [
            "--sources=0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
            "--rate=300",
            "--held-rate=100",
            "--connections=20",
        ]
    )
