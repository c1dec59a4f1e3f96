"""What to do with a lab that keeps running: where to look, how to ask, how to end it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from maglev0.lab.testbed import addresses, namespace

if TYPE_CHECKING:
    from maglev0.lab.testbed.cluster import Lab


def text(cluster: Lab) -> str:
    """The guide to this very lab, each command ready to be copied."""
    claim = cluster.claim
    node = cluster.nodes[1].machine
    return f"""\
lab {claim.name}: {len(cluster.nodes)} nodes serve {cluster.settings.vip}

ask it
  all members        {maglev0(cluster, "status --watch")}
  who answers        {maglev0(cluster, f"explain {addresses.client_address(0)}")}
  what is wrong      {maglev0(cluster, "doctor")}
  drain a member     {maglev0(cluster, "drain 2")}      (undrain 2, weight 2 3, weight 2 own)

look around
  what it logs       tail -f {node.log}
  on a node          {enter(node.namespace)} sh      (nft list ruleset, ip address, tcpdump -i eth0, …)
  on the client      {enter(cluster.client)} sh
  ask once           {enter(cluster.client)} sh -c 'echo hello | nc -q1 {cluster.settings.vip} {addresses.SERVICE_PORT}'
  count 2000 answers {enter(cluster.client)} {sys.executable} -m maglev0.lab.traffic.probe --vip={cluster.settings.vip}
  zookeeper          {cluster.zookeeper.connect_string}, on the nodes' management network: {enter(node.namespace)} COMMAND
  all logs           ls {claim.directory}
  all namespaces     ip netns list          ({claim.name}-…)

make trouble
  kill a daemon      kill -9 {cluster.nodes[1].daemon.pid}
  start it again     {enter(node.namespace)} {" ".join(cluster.nodes[1].daemon_command)}
  cut its network    {enter(claim.namespace("switch"))} ip link set {node.traffic_cable} down

end it
  maglev0 lab --end {claim.name}
"""


def maglev0(cluster: Lab, command: str) -> str:
    """A command of the operator's on the first node."""
    node = cluster.nodes[1].machine
    where = f"--zk={cluster.zookeeper.connect_string} --cluster-ip={cluster.settings.vip}"
    return f"MAGLEV0_BPFFS={node.bpf_file_system} {enter(node.namespace)} {sys.executable} -m maglev0 {command} {where}"


def enter(name: str) -> str:
    """The beginning of a command that is to run in the namespace."""
    return f"nsenter --net={namespace.path_of(name)}"
