"""Judges who answers ARP for the VIP, and whether frames for the cluster MAC arrive. Pure.

It imports no I/O; `read` beside it sends the frames and hears the answers. No member's daemon takes
part: a kernel answers ARP by itself (RFC 826). Three questions go to each other member's own
address. Their sender address is 0.0.0.0, as in a probe (RFC 5227, 2.1.1), so no neighbour table
learns from them:

- *control*: a broadcast. A member that answers can be reached.
- *there*: a frame to the cluster MAC. A member that answers has received it, so the switch carries
  such frames from here to there.
- *here*: a broadcast that names the cluster MAC as the asker's own. The kernel sends its answer to
  the MAC that the question names, so the answer is a frame to the cluster MAC, from there to here.
"""

from __future__ import annotations

import enum
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import NamedTuple

from maglev0.operator.doctor.finding import Finding, fault, judged, left_out, warning

VIP_MAC = "the VIP's MAC"
NEIGHBOURS = "neighbours"
THERE = "frames for the cluster MAC, sent from here"
HERE = "frames for the cluster MAC, arriving here"
BROADCAST = "ff:ff:ff:ff:ff:ff"
NOBODY = IPv4Address(0)
ETHER_TYPE = 0x0806
FRAME_BYTES = 42
_FRAME = struct.Struct("!6s6sHHHBBH6s4s6s4s")
_FIXED = (1, 0x0800, 6, 4)  # Ethernet, IPv4, the lengths of their addresses
_REQUEST, _REPLY = 1, 2
_FEW = 3  # names in one finding


class Question(enum.Enum):
    """What a round asks the other members."""

    CONTROL = "control"
    THERE = "there"
    HERE = "here"


class Heard(NamedTuple):
    """One ARP packet: the frame's MACs, and the MAC and address of its sender.

    `asked` is the MAC of the target: for an answer, the MAC of who asked.
    """

    destination: str
    source: str
    mac: str
    address: IPv4Address
    asked: str
    is_reply: bool


class Peer(NamedTuple):
    """Another member on the network; `answers`: it should also answer for the VIP."""

    name: str
    address: IPv4Address
    mac: str
    answers: bool


@dataclass
class ArpTally:
    """The counts of an examination: rounds, and answers by question and peer's address.

    `speakers` are the MACs that answered for the VIP, by the source MAC of the frame.
    """

    rounds: int = 0
    answers: Counter[tuple[Question, IPv4Address]] = field(default_factory=Counter)
    speakers: dict[str, set[str]] = field(default_factory=dict)

    def take(
        self, heard: Heard, question: Question, vip: IPv4Address, own: str, cluster_mac: str
    ) -> None:
        """Count a packet that arrived during that question."""
        if heard.address == vip:
            self.speakers.setdefault(heard.source, set()).add(heard.mac)
        elif heard.is_reply and heard.asked == (cluster_mac if question is Question.HERE else own):
            self.answers[question, heard.address] += 1


def request(
    destination: str, own: str, asker: tuple[str, IPv4Address], wanted: IPv4Address
) -> bytes:
    """The frame that asks for the address `wanted`.

    `asker` is the MAC and address that the question names; `own` is the frame's source MAC.
    """
    mac, address = asker
    return _FRAME.pack(
        _bytes(destination),
        _bytes(own),
        ETHER_TYPE,
        *_FIXED,
        _REQUEST,
        _bytes(mac),
        address.packed,
        bytes(6),
        wanted.packed,
    )


def question(kind: Question, peer: IPv4Address, own: str, cluster_mac: str) -> bytes:
    """The frame of one question to one peer."""
    destination = cluster_mac if kind is Question.THERE else BROADCAST
    return request(destination, own, (cluster_mac if kind is Question.HERE else own, NOBODY), peer)


def parse_arp(frame: bytes) -> Heard | None:
    """Read an ARP packet in an Ethernet frame; None for any other frame."""
    if len(frame) < FRAME_BYTES:
        return None
    destination, source, ether_type, *fixed, operation, mac, address, asked, _target = (
        _FRAME.unpack_from(frame)
    )
    if ether_type != ETHER_TYPE or tuple(fixed) != _FIXED or operation not in (_REQUEST, _REPLY):
        return None
    return Heard(
        _text(destination),
        _text(source),
        _text(mac),
        IPv4Address(address),
        _text(asked),
        operation == _REPLY,
    )


def _bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _text(mac: bytes) -> str:
    return mac.hex(":")


def judge(
    tally: ArpTally, peers: Sequence[Peer], vip: IPv4Address, cluster_mac: str
) -> list[Finding]:
    """Judge the counts; `peers` are the other members that were asked."""
    names = {peer.mac: peer.name for peer in peers}
    wrong = [
        _impostor(mac, source, names, vip, cluster_mac)
        for source, macs in sorted(tally.speakers.items())
        for mac in sorted(macs - {cluster_mac})
    ]
    near = [peer for peer in peers if tally.answers[Question.CONTROL, peer.address]]
    silent = [peer for peer in near if peer.answers and peer.mac not in tally.speakers]
    speaking = (
        f"{len(tally.speakers)} other hosts answer for {vip}, all with {cluster_mac}"
        if tally.speakers
        else f"no other host answers for {vip}"
    )
    return [
        *judged(VIP_MAC, speaking, *wrong, _silent(silent, vip) if silent else None),
        *(
            _reach(tally, peers, near, cluster_mac)
            if peers
            else [_alone(check) for check in (NEIGHBOURS, THERE, HERE)]
        ),
    ]


def _alone(check: str) -> Finding:
    return left_out(check, "there is no other member to ask")


def _impostor(
    mac: str, source: str, names: dict[str, str], vip: IPv4Address, cluster_mac: str
) -> Finding:
    who = names.get(source) or names.get(mac) or f"a host that is not a member ({source})"
    why = (
        f"clients and routers that hear it send all traffic for {vip} to that host only; the"
        f" cluster MAC is {cluster_mac}"
    )
    return fault(
        VIP_MAC,
        f"{who} answers ARP for {vip} with {mac}",
        why,
        f"on that host: systemctl start maglev0, or: ip address del {vip}/32 dev …",
    )


def _silent(silent: Sequence[Peer], vip: IPv4Address) -> Finding:
    why = (
        "routers learn the cluster MAC from an answer; if no node answers, no client finds the VIP"
    )
    fix = "on that node: maglev0 doctor (its arp_ignore, its packet filters, its daemon)"
    return fault(
        VIP_MAC,
        f"{_names(silent)} {_verb(silent, 'does', 'do')} not answer ARP for {vip}",
        why,
        fix,
    )


def _reach(
    tally: ArpTally, peers: Sequence[Peer], near: Sequence[Peer], cluster_mac: str
) -> list[Finding]:
    far = [peer for peer in peers if peer not in near]
    apart = None
    if far:
        what = f"{_names(far)} {_verb(far, 'does', 'do')} not answer ARP on this network"
        why = (
            "all members must be in one layer-2 network: the cause may be another VLAN, a broken"
            " cable, or a filter"
        )
        apart = warning(
            NEIGHBOURS,
            what,
            why,
            f"from here: arping -I IF {far[0].address}; check cables and VLANs",
        )
    return [
        *judged(NEIGHBOURS, f"all {len(near)} other members answer", apart),
        *_way(tally, near, Question.THERE, cluster_mac),
        *_way(tally, near, Question.HERE, cluster_mac),
    ]


def _way(tally: ArpTally, near: Sequence[Peer], kind: Question, cluster_mac: str) -> list[Finding]:
    check = THERE if kind is Question.THERE else HERE
    if not near:
        return [left_out(check, "no other member answers ARP")]
    heard = {peer: tally.answers[kind, peer.address] for peer in near}
    lost = [peer for peer, count in heard.items() if not count]
    some = [
        peer
        for peer, count in heard.items()
        if 0 < count < min(tally.rounds, tally.answers[Question.CONTROL, peer.address])
    ]
    return judged(
        check,
        f"they arrive, {len(near)} of {len(near)} members",
        _lost(lost, kind, cluster_mac),
        _some(some, heard, tally.rounds, kind, cluster_mac),
    )


def _lost(lost: Sequence[Peer], kind: Question, cluster_mac: str) -> Finding | None:
    if not lost:
        return None
    there = kind is Question.THERE
    what = (
        f"frames for {cluster_mac} do not reach {_names(lost)} from here"
        if there
        else f"frames for {cluster_mac} from {_names(lost)} do not arrive here"
    )
    why = (
        f"the switch does not flood them to {'their ports' if there else 'this port'}: no node"
        " receives the packets of clients in that share"
    )
    mine = f"; on {'those nodes' if there else 'this node'} ip maddress must show the MAC"
    return fault(THERE if there else HERE, what, why, _switch(cluster_mac) + mine)


def _some(
    some: Sequence[Peer], heard: dict[Peer, int], rounds: int, kind: Question, cluster_mac: str
) -> Finding | None:
    if not some:
        return None
    there = kind is Question.THERE
    counts = ", ".join(f"{peer.name} {heard[peer]} of {rounds}" for peer in some[:_FEW])
    what = f"some frames for {cluster_mac} {'to' if there else 'from'} others are lost ({counts})"
    why = (
        "a switch that snoops IGMP floods only until its entries age out, and a switch with storm"
        " control drops frames above its rate"
    )
    return warning(
        THERE if there else HERE,
        what,
        why,
        f"{_switch(cluster_mac)}; to probe longer: maglev0 doctor --probe-for=300",
    )


def _switch(cluster_mac: str) -> str:
    bridge = "on a Linux bridge: bridge link set dev PORT mcast_flood on"
    return (
        f"on the switch: switch IGMP snooping off for this VLAN, or pin {cluster_mac} to the nodes'"
        f" ports; {bridge}"
    )


def _names(peers: Iterable[Peer]) -> str:
    names = [f"{peer.name} ({peer.address})" for peer in peers]
    return ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")


def _verb(peers: Sequence[Peer], one: str, more: str) -> str:
    return one if len(peers) == 1 else more
