"""The faults: each is caused for real, waited for and undone; each part is an episode."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from maglev0.lab.chaos import stopper
from maglev0.lab.errors import LabError
from maglev0.lab.testbed import namespace
from maglev0.lab.testbed.node import LEAVE_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from maglev0.lab.chaos.stage import Trial
    from maglev0.lab.testbed.zookeeper import ZooKeeperServer

# systemd's RestartSec=1 would outlast a session of 1 s; other supervisors may be quicker.
RESTART_S = 0.1
LEAST_SERVING = 3
# A daemon has about as many threads that are busy at rest: the loop's and kazoo's.
MOST_THREADS = 3
MOST_CALLS = 60
CALLS_TIMEOUT_S = 20.0
ELECTION_ASK_S = 0.02
ELECTION_TIMEOUT_S = 60.0


class LabFault(NamedTuple):
    """`act` causes the fault, waits and undoes it; `least` nodes have to serve for it."""

    act: Callable[[Trial], None]
    least: int = LEAST_SERVING


def join(stage: Trial) -> None:
    """A node whose daemon does not run starts it; where there is none, one leaves first."""
    if not stage.absent:
        leave(stage)
        stage.quiet()
    number = stage.pick(stage.absent)
    stage.begin("join", stage.planned(), f"node {number}")
    stage.start(number)
    stage.settle()


def leave(stage: Trial) -> None:
    """SIGTERM: hand-over, drain, end; users go on with their connections there for a while."""
    number = stage.pick()
    node = stage.node(number)
    stage.begin("leave", stage.planned(), f"node {number}")
    node.daemon.signal(signal.SIGTERM)
    stage.serving.discard(number)
    stage.settle()
    time.sleep(stage.choices.drain_use_s)
    stage.clients.retire(number)
    status = node.daemon.wait(LEAVE_TIMEOUT_S)
    if status:
        raise LabError(
            f"{node.daemon.name} ended with status {status} after SIGTERM, see {node.machine.log}"
        )
    stage.clients.wait_served(LEAVE_TIMEOUT_S)


def kill(stage: Trial) -> None:
    """SIGKILL to a daemon that stays dead for some time; its machine lives."""
    number = stage.pick()
    stage.begin("kill", stage.crash(number), f"node {number}")
    stage.node(number).kill_daemon()
    stage.serving.discard(number)
    stage.settle()
    time.sleep(stage.rng.uniform(0.0, 2.0))
    stage.begin("kill, then started", stage.planned(), f"node {number}")
    stage.start(number)
    stage.settle()


def crash_and_restart(stage: Trial) -> None:
    """SIGKILL, and a new daemon starts at once: while the session lives nobody sees a change."""
    number = stage.pick()
    stage.begin("crash and restart", stage.crash(number), f"node {number}")
    stage.node(number).kill_daemon()
    time.sleep(RESTART_S)
    stage.start(number)
    stage.settle()


def restart(stage: Trial) -> None:
    """The restart signal, and the next daemon at once."""
    _restart(stage, stage.pick(), "restart")


def restart_all(stage: Trial) -> None:
    """Every node in turn."""
    for number in sorted(stage.serving):
        _restart(stage, number, "restart of all in turn")


def weight(stage: Trial) -> None:
    """A restart with another weight."""
    number = stage.pick()
    before = stage.weights[number]
    stage.weights[number] = stage.rng.choice(
        [weight for weight in stage.choices.weights if weight != before]
    )
    _restart(stage, number, "weight", f", weight {before} to {stage.weights[number]}")


def _restart(stage: Trial, number: int, cause: str, note: str = "") -> None:
    stage.begin(cause, stage.planned(), f"node {number}{note}")
    node = stage.node(number)
    status = node.suspend_daemon()
    if status:
        raise LabError(
            f"{node.daemon.name} ended with status {status} after SIGUSR1, see {node.machine.log}"
        )
    stage.start(number)
    stage.settle()


def pause_short(stage: Trial) -> None:
    """SIGSTOP and SIGCONT within a lease: at most the rest of one is lost."""
    number = stage.pick()
    stage.begin("pause, short", stage.crash(number), f"node {number}")
    daemon = stage.node(number).daemon
    daemon.signal(signal.SIGSTOP)
    time.sleep(stage.rng.uniform(0.05, 0.4) * stage.session_s)
    daemon.signal(signal.SIGCONT)
    time.sleep(stage.session_s)
    stage.settle()


def pause_long(stage: Trial) -> None:
    """SIGSTOP for three session timeouts, then SIGCONT: others take over, the node joins again."""
    number = stage.pick()
    node = stage.node(number)
    announced = node.announcements()
    stage.begin("pause, long", stage.crash(number), f"node {number}")
    until_s = time.monotonic() + 3 * stage.session_s
    node.daemon.signal(signal.SIGSTOP)
    stage.settle(without=[number])
    time.sleep(max(0.0, until_s - time.monotonic()))
    stage.begin("pause, then woken", stage.planned(), f"node {number}")
    node.daemon.signal(signal.SIGCONT)
    stage.settle_after(number, announced)


def stop_at_call(stage: Trial) -> None:
    """Stop the daemon at some system call for longer than its session lives; others take over."""
    number = stage.pick()
    node = stage.node(number)
    announced = node.announcements()
    which = stage.rng.randrange(MOST_THREADS)
    count = 1 + int(MOST_CALLS ** stage.rng.random())
    threads = stopper.busy_threads(node.daemon.pid, stage.session_s)
    thread = threads[which % len(threads)]
    episode = stage.begin("stopped at a system call", stage.crash(number), f"node {number}")
    with stopper.stopped_at(node.daemon.pid, thread, count, CALLS_TIMEOUT_S) as call:
        episode.note = (
            f"node {number}, system call {call} of busy thread {threads.index(thread)}, "
            f"the {count}th"
        )
        episode.since_ns = time.monotonic_ns()
        until_s = time.monotonic() + 3 * stage.session_s
        stage.settle(without=[number])
        time.sleep(max(0.0, until_s - time.monotonic()))
        stage.begin("stopped, then let go", stage.planned(), f"node {number}")
    stage.settle_after(number, announced)


def cut_management(stage: Trial) -> None:
    """A node loses ZooKeeper alone, for longer than its session; its connections continue."""
    number = stage.pick()
    cable = stage.node(number).machine.management_cable
    network = stage.cluster.network
    stage.begin("management cut", stage.crash(number), f"node {number}")
    network.pull(cable)
    stage.settle(without=[number])
    time.sleep(stage.rng.uniform(0.0, 2.0))
    announced = stage.node(number).announcements()
    stage.begin("management cut, then healed", stage.planned(), f"node {number}")
    network.push(cable)
    stage.settle_after(number, announced)


def cut_traffic(stage: Trial) -> None:
    """A node loses its clients and the carrier there; it has to leave by itself."""
    number = stage.pick()
    cable = stage.node(number).machine.traffic_cable
    network = stage.cluster.network
    stage.begin("traffic cut", stage.crash(number, breaks=[number]), f"node {number}")
    network.pull(cable)
    stage.settle(without=[number])
    announced = stage.node(number).announcements()
    stage.begin(
        "traffic cut, then healed",
        replace(stage.planned(), breaks=frozenset({number})),
        f"node {number}",
    )
    network.push(cable)
    stage.settle_after(number, announced)


def mute_traffic(stage: Trial) -> None:
    """A switch drops a node's traffic while the carrier stays: no node can notice it."""
    number = stage.pick()
    cable = stage.node(number).machine.traffic_cable
    lasting_s = stage.rng.uniform(0.5, 3.0)
    stage.begin(
        "traffic swallowed",
        replace(stage.crash(number, breaks=[number]), gap_s=lasting_s + stage.crash_s),
        f"node {number}",
    )
    stage.cluster.network.mute(cable)
    time.sleep(lasting_s)
    stage.cluster.network.unmute(cable)
    time.sleep(stage.session_s)
    stage.settle()


def cut_both(stage: Trial) -> None:
    """Both cables pulled, and put back later."""
    number = stage.pick()
    node = stage.node(number)
    stage.begin("both cut", stage.crash(number, breaks=[number]), f"node {number}")
    node.pull_cables()
    stage.settle(without=[number])
    announced = node.announcements()
    stage.begin(
        "both cut, then healed",
        replace(stage.planned(), breaks=frozenset({number})),
        f"node {number}",
    )
    node.push_cables()
    stage.settle_after(number, announced)


def lose_host(stage: Trial) -> None:
    """A power cut; later the machine boots and its daemon starts."""
    number = stage.pick()
    node = stage.node(number)
    stage.begin("host lost", stage.crash(number, breaks=[number]), f"node {number}")
    node.power_off()
    stage.serving.discard(number)
    stage.settle()
    node.power_on()
    stage.begin(
        "host lost, then booted",
        replace(stage.planned(), breaks=frozenset({number})),
        f"node {number}",
    )
    stage.start(number)
    stage.settle()


def kill_leader(stage: Trial) -> None:
    """ZooKeeper's leader is killed, another elected, the killed one started again."""
    leader = stage.cluster.zookeeper.leader()
    _lose_leader(stage, "ZooKeeper leader killed", leader, leader.kill)
    leader.start()
    leader.wait_until_serving()
    stage.settle()


def freeze_leader(stage: Trial) -> None:
    """Stop ZooKeeper's leader while its connections stand, until another is elected."""
    leader = stage.cluster.zookeeper.leader()
    _lose_leader(stage, "ZooKeeper leader silent", leader, leader.freeze)
    leader.thaw()
    leader.wait_until_serving()
    stage.settle()


def _lose_leader(
    stage: Trial, cause: str, leader: ZooKeeperServer, lose: Callable[[], None]
) -> None:
    """Lose it, wait for the next one; what clients went without until then is ZooKeeper's doing."""
    episode = stage.begin(cause, stage.crash())
    lose()
    others = [server for server in stage.cluster.zookeeper.servers if server is not leader]
    _await_leader(others)
    _allow_until_now(stage)
    stage.clients.wait_served(ELECTION_TIMEOUT_S)
    episode.note = f"no leader for {episode.allowance.gap_s - stage.crash_s:.1f} s"


def lose_all_servers(stage: Trial) -> None:
    """Every server of ZooKeeper is killed, and started again some seconds later."""
    servers = stage.cluster.zookeeper.servers
    stage.begin("ZooKeeper away", stage.crash())
    for server in servers:
        server.kill()
    time.sleep(stage.choices.away_s or stage.rng.uniform(0.5, 4.0))
    for server in servers:
        server.start()
    stage.cluster.zookeeper.wait_until_serving()
    _allow_until_now(stage)
    # A node that lost its session joins again when leases have run out; until then its log, and
    # the logs of others, may show the cluster as it was before.
    time.sleep(2 * stage.session_s)
    stage.settle()


def _allow_until_now(stage: Trial) -> None:
    """Nobody can be served for as long as ZooKeeper was away, and a moment longer."""
    episode = stage.episodes[-1]
    away_s = (time.monotonic_ns() - episode.since_ns) / 1e9
    episode.allowance = replace(episode.allowance, gap_s=away_s + stage.crash_s, nodes=None)


def _await_leader(servers: list[ZooKeeperServer]) -> None:
    deadline_s = time.monotonic() + ELECTION_TIMEOUT_S
    while all(server.mode() != "leader" for server in servers):
        if time.monotonic() > deadline_s:
            raise LabError(f"no zookeeper server leads after {ELECTION_TIMEOUT_S} s")
        time.sleep(ELECTION_ASK_S)


def flush(stage: Trial) -> None:
    """Another program on a node throws all nftables rules away."""
    number = stage.pick()
    stage.begin("nft flush ruleset", stage.crash(number), f"node {number}")
    path = namespace.path_of(stage.node(number).machine.namespace)
    subprocess.run(
        ["nsenter", f"--net={path}", "--", "nft", "flush", "ruleset"],
        check=True,
        capture_output=True,
    )
    time.sleep(stage.session_s)
    stage.settle()


def load(stage: Trial) -> None:
    """Both cores are busy with something else; a slow node may lose its lease, and no more."""
    stage.begin("both cores busy", replace(stage.crash(), nodes=None))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        time.sleep(3 * stage.session_s)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    stage.settle()


FAULTS = {
    "join": LabFault(join),
    "leave": LabFault(leave, LEAST_SERVING + 1),
    "kill": LabFault(kill),
    "crash": LabFault(crash_and_restart),
    "restart": LabFault(restart),
    "restart-all": LabFault(restart_all),
    "weight": LabFault(weight),
    "pause-short": LabFault(pause_short),
    "pause-long": LabFault(pause_long),
    "stop-at-call": LabFault(stop_at_call),
    "cut-management": LabFault(cut_management),
    "cut-traffic": LabFault(cut_traffic),
    "mute-traffic": LabFault(mute_traffic),
    "cut-both": LabFault(cut_both),
    "lose-host": LabFault(lose_host),
    "kill-leader": LabFault(kill_leader),
    "freeze-leader": LabFault(freeze_leader),
    "lose-zookeeper": LabFault(lose_all_servers),
    "flush": LabFault(flush),
    "load": LabFault(load),
}
