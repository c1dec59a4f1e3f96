"""What ARP tells of the network: who answers for the VIP with which MAC, and whether frames for the cluster MAC arrive.

Pure: imports no I/O. No member needs to take part in it, for a kernel answers ARP by itself (RFC 826). Three questions go to each other member's
own address, with the sender address 0.0.0.0 of a probe (RFC 5227, 2.1.1), which no neighbour table learns from:

- *control*: by broadcast. Who answers can be reached.
- *there*: in a frame to the cluster MAC. Who answers has received it, so the switch carries such frames from here to there.
- *here*: by broadcast, naming the cluster MAC as the asker's own. The kernel sends its answer to the MAC that the question names, so the answer is a
  frame to the cluster MAC, from there to here.
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
    """One ARP packet: the frame's MACs, and whose MAC it names for which address. `asked` is the MAC that an answer is meant for."""

    destination: str
    source: str
    mac: str
    address: IPv4Address
    asked: str
    is_reply: bool


class Peer(NamedTuple):
    """Another member on the network; `answers`: it should answer for the VIP, too."""

    name: str
    address: IPv4Address
    mac: str
    answers: bool


@dataclass
class ArpTally:
    """What was asked and heard: rounds, answers by question and peer's address, and the MACs that spoke for the VIP by the frame's source."""

    rounds: int = 0
    answers: Counter[tuple[Question, IPv4Address]] = field(default_factory=Counter)
    speakers: dict[str, set[str]] = field(default_factory=dict)

    def take(
        self, heard: Heard, question: Question, vip: IPv4Address, own: str, cluster_mac: str
    ) -> None:
        """Count a packet that came while that was asked."""
        if heard.address == vip:
            self.speakers.setdefault(heard.source, set()).add(heard.mac)
        elif heard.is_reply and heard.asked == (cluster_mac if question is Question.HERE else own):
            self.answers[question, heard.address] += 1


def request(
    destination: str, own: str, asker: tuple[str, IPv4Address], wanted: IPv4Address
) -> bytes:
    """The frame that asks for an address; `asker` is whom it names as the one who asks, `own` the frame's true source."""
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


def parse(frame: bytes) -> Heard | None:
    """Read an ARP packet in an Ethernet frame, None for every other."""
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
    """Judge what was heard; `peers` are the other members that were asked."""
    names = {peer.mac: peer.name for peer in peers}
    wrong = [
        _impostor(mac, source, names, vip, cluster_mac)
        for source, macs in sorted(tally.speakers.items())
        for mac in sorted(macs - {cluster_mac})
    ]
    near = [peer for peer in peers if tally.answers[Question.CONTROL, peer.address]]
    silent = [peer for peer in near if peer.answers and peer.mac not in tally.speakers]
    speaking = (
        f"{len(tally.speakers)} others answer for {vip}, all with {cluster_mac}"
        if tally.speakers
        else f"nobody else answers for {vip}"
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
    return left_out(check, "no other member is known that could be asked")


def _impostor(
    mac: str, source: str, names: dict[str, str], vip: IPv4Address, cluster_mac: str
) -> Finding:
    who = names.get(source) or names.get(mac) or f"a host that is no member, at {source}"
    why = f"clients and routers that hear it send all their traffic for {vip} to that host alone; the cluster's is {cluster_mac}"
    return fault(
        VIP_MAC,
        f"{vip} is answered with {mac}, by {who}",
        why,
        f"on that host: ip address del {vip}/32 dev …, or start its daemon",
    )


def _silent(silent: Sequence[Peer], vip: IPv4Address) -> Finding:
    why = "routers learn the cluster MAC from whoever answers; if nobody did, no client would find the cluster"
    mend = "on that node: maglev0 doctor (its arp_ignore, its packet filters, its daemon)"
    return fault(
        VIP_MAC,
        f"{_names(silent)} {_verb(silent, 'does', 'do')} not answer ARP for {vip}, though for their own addresses",
        why,
        mend,
    )


def _reach(
    tally: ArpTally, peers: Sequence[Peer], near: Sequence[Peer], cluster_mac: str
) -> list[Finding]:
    far = [peer for peer in peers if peer not in near]
    apart = None
    if far:
        what = f"{_names(far)} {_verb(far, 'does', 'do')} not answer ARP on this network"
        why = "all members must stand in one layer-2 network: another VLAN, a cut cable, or a filter lies between"
        apart = warning(
            NEIGHBOURS,
            what,
            why,
            f"from here: arping -I IF {far[0].address}; compare cables and VLANs",
        )
    return [
        *judged(NEIGHBOURS, f"all {len(near)} other members answer", apart),
        *_way(tally, near, Question.THERE, cluster_mac),
        *_way(tally, near, Question.HERE, cluster_mac),
    ]


def _way(tally: ArpTally, near: Sequence[Peer], kind: Question, cluster_mac: str) -> list[Finding]:
    check = THERE if kind is Question.THERE else HERE
    if not near:
        return [left_out(check, "no other member answers that could be asked")]
    heard = {peer: tally.answers[kind, peer.address] for peer in near}
    lost = [peer for peer, count in heard.items() if not count]
    some = [
        peer
        for peer, count in heard.items()
        if 0 < count < min(tally.rounds, tally.answers[Question.CONTROL, peer.address])
    ]
    return judged(
        check,
        f"they pass, {len(near)} of {len(near)} members",
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
    why = f"the switch does not flood them to {'their ports' if there else 'this port'}: nobody receives what clients in that share send"
    mine = f"; on {'those nodes' if there else 'this one'} ip maddress must show the MAC"
    return fault(THERE if there else HERE, what, why, _switch(cluster_mac) + mine)


def _some(
    some: Sequence[Peer], heard: dict[Peer, int], rounds: int, kind: Question, cluster_mac: str
) -> Finding | None:
    if not some:
        return None
    there = kind is Question.THERE
    counts = ", ".join(f"{peer.name} {heard[peer]} of {rounds}" for peer in some[:_FEW])
    what = (
        f"frames for {cluster_mac} {'to' if there else 'from'} others are lost in part ({counts})"
    )
    why = "a switch that snoops IGMP delivers until its entries age, and one with storm control drops what exceeds its rate"
    return warning(
        THERE if there else HERE,
        what,
        why,
        f"{_switch(cluster_mac)}; watch for longer: maglev0 doctor --probe-for=300",
    )


def _switch(cluster_mac: str) -> str:
    bridge = "on a Linux bridge: bridge link set dev PORT mcast_flood on"
    return f"on the switch: IGMP snooping off for this VLAN, or {cluster_mac} pinned to the nodes' ports; {bridge}"


def _names(peers: Iterable[Peer]) -> str:
    names = [f"{peer.name} ({peer.address})" for peer in peers]
    return ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")


def _verb(peers: Sequence[Peer], one: str, more: str) -> str:
    return one if len(peers) == 1 else more
