"""Whether a kernel accepts a flow, and by which rule.

What was read of it, judged in the order in which its own stages judge.

Pure: imports no I/O. `dataplane.ruleset` and `dataplane.clusterip_guard` tell the rules that this
repeats, and the tests send packets to compare.

What other programs' rules, the routing and the service behind make of a packet that these stages
let pass is not judged here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import NamedTuple, Protocol

from maglev0.core.packet_hash import PacketFields, PacketHash
from maglev0.core.service import HashFamily, Service
from maglev0.dataplane.nftables import ruleset

_ANYBODY = IPv4Address("192.0.2.1")
_FOREIGN = "it is neither in force nor staged here, and no connections are kept in it"


class JudgedStage(NamedTuple):
    """One stage that a packet comes to.

    By which rule it passes, or (False) does not, or (None) nobody knows; and why.
    """

    stage: str
    passes: bool | None
    rule: str
    why: str


class PacketVerdict(NamedTuple):
    """The stages that a packet comes to, up to the one that drops it."""

    steps: tuple[JudgedStage, ...]

    @property
    def accepts(self) -> bool | None:
        """Whether all let it pass; `None` where that hangs on what nobody knows."""
        answers = {step.passes for step in self.steps}
        return False if False in answers else None if None in answers else True

    @property
    def decisive(self) -> JudgedStage:
        """The stage that drops the packet, or that is unknown.

        The last one where all let it pass.
        """
        return (
            self.steps[-1]
            if self.accepts is not None
            else next(step for step in self.steps if step.passes is None)
        )


class Tracked(NamedTuple):
    """One TCP connection as connection tracking knows it.

    `established` tells whether it counts the client's next segment as part of it.
    """

    state: str
    established: bool


class InterfaceFacts(NamedTuple):
    """What the rules rely on.

    Whether the interface is up with a carrier, and whether any interface holds the VIP.
    """

    link_up: bool
    address: bool


class XdpFacts(NamedTuple):
    """The XDP program on the interface.

    The buckets whose bits are set, `None` where it is not ours and may drop anything.
    """

    mode: str
    admitted: frozenset[int] | None


class ServingKernel(Protocol):
    """What was read of a kernel that serves a VIP."""

    @property
    def family(self) -> HashFamily:
        """Which dataplane it holds."""

    @property
    def service(self) -> Service:
        """What it carries out, and where."""

    def new_flow(self, bucket: int) -> PacketVerdict:
        """What becomes of a pure SYN, or of any packet that is not TCP's, but for ICMP errors."""

    def established(self, bucket: int, tracked: Tracked | None) -> PacketVerdict:
        """What becomes of TCP segments other than a pure SYN.

        `tracked` is what connection tracking knows of the connection; `None`: nothing.
        """


@dataclass(frozen=True)
class NftablesKernel:
    """What was read of a kernel that holds our nftables rules.

    `owned` is what each of the two slots holds, `owned_slot` the chain that is in force, or `None`;
    `lease_left_s` has an entry for each lease slot whose timer runs, `lease_slot` is the one in
    force. `program` is `None` where no XDP program is attached.
    """

    service: Service
    hook: ruleset.Hook
    host: InterfaceFacts
    program: XdpFacts | None
    admitted: frozenset[int]
    owned: Mapping[str, frozenset[int]]
    owned_slot: str | None
    lease_left_s: Mapping[str, float]
    lease_slot: str | None
    family: HashFamily = HashFamily.NFTABLES

    def new_flow(self, bucket: int) -> PacketVerdict:
        """See `ServingKernel.new_flow`."""

        def steps() -> Iterator[JudgedStage]:
            yield from self._before_tracking(bucket)
            yield self._lease()
            yield from self._in_force(bucket)

        return _judged(steps())

    def established(self, bucket: int, tracked: Tracked | None) -> PacketVerdict:
        """See `ServingKernel.established`."""
        return _judged([*self._before_tracking(bucket), self._connection(tracked)])

    def _rule(self, chain: str, verdict: str) -> str:
        return f"inet {ruleset.table_name(self.service.vip)} {chain}: {verdict}"

    def _before_tracking(self, bucket: int) -> Iterator[JudgedStage]:
        yield _host(self.service, self.host)
        yield self._xdp(bucket)
        passes = bucket in self.admitted
        why = (
            f"bucket {bucket} is in set {ruleset.ADMITTED}"
            if passes
            else f"bucket {bucket} is not in set {ruleset.ADMITTED}: {_FOREIGN}"
        )
        yield JudgedStage(
            "early",
            passes,
            self._rule("early", "policy accept" if passes else f"{self.hook.value}, drop"),
            why,
        )

    def _xdp(self, bucket: int) -> JudgedStage:
        interface = self.service.interface
        if self.program is None:
            return JudgedStage(
                "xdp",
                True,
                f"no XDP program on {interface}",
                "no program drops packets before the stack",
            )
        rule = f"XDP program on {interface}, {self.program.mode}"
        if self.program.admitted is None:
            return JudgedStage(
                "xdp",
                None,
                rule,
                "another program, another version or other settings: it may drop any packet",
            )
        passes = bucket in self.program.admitted
        return JudgedStage(
            "xdp",
            passes,
            rule,
            f"bucket {bucket}'s bit is set"
            if passes
            else f"bucket {bucket}'s bit is not set: {_FOREIGN}",
        )

    def _lease(self) -> JudgedStage:
        slot = self.lease_slot
        if slot is None:
            return JudgedStage(
                "second",
                False,
                self._rule("new_flow", "drop"),
                f"no lease: map {ruleset.LEASE_SLOT} is empty, no lease was ever in force",
            )
        if slot not in self.lease_left_s:
            return JudgedStage(
                "second",
                False,
                self._rule(slot, "drop"),
                f"no lease: set {slot} is empty, its timer expired or was ended",
            )
        return JudgedStage(
            "second", True, self._rule(slot, "goto leased"), _runs(self.lease_left_s[slot])
        )

    def _in_force(self, bucket: int) -> Iterator[JudgedStage]:
        if self.owned_slot is None:
            yield JudgedStage(
                "second",
                False,
                self._rule("leased", "drop"),
                f"map {ruleset.OWNED_SLOT} is empty: no bucket is in force",
            )
        elif self.owned_slot == ruleset.OWNED_BOTH:
            first, second = ruleset.OWNED
            yield self._in_slot(bucket, first, ruleset.OWNED_BOTH, f"goto {second}")
            yield self._in_slot(bucket, second, second, "accept")
        else:
            yield self._in_slot(bucket, self.owned_slot, self.owned_slot, "accept")

    def _in_slot(self, bucket: int, slot: str, chain: str, verdict: str) -> JudgedStage:
        passes = bucket in self.owned[slot]
        moving = " while a hand-over is under way" if self.owned_slot == ruleset.OWNED_BOTH else ""
        why = (
            f"bucket {bucket} is in set {slot}"
            if passes
            else f"bucket {bucket} is not in set {slot}: not in force here{moving}"
        )
        return JudgedStage("second", passes, self._rule(chain, verdict if passes else "drop"), why)

    def _connection(self, tracked: Tracked | None) -> JudgedStage:
        if tracked is None:
            why = (
                "connection tracking knows no such connection: it belongs to another node, "
                "or its packets are untracked (NOTRACK)"
            )
            return JudgedStage("second", False, self._rule("judge_tcp", "drop"), why)
        known = f"connection tracking knows it as {tracked.state}"
        if not tracked.established:
            return JudgedStage(
                "second",
                False,
                self._rule("judge_tcp", "drop"),
                f"{known}: no node has answered it yet",
            )
        return JudgedStage(
            "second", True, self._rule("judge_tcp", "ct state established,related accept"), known
        )


@dataclass(frozen=True)
class ClusterIPKernel:
    """What was read of a kernel with a CLUSTERIP rule.

    The buckets in force, and how long the lease runs, minus infinity for not at all.

    `guarded` is False where the rule stands alone, as one set up by hand does before a daemon
    comes.
    """

    service: Service
    host: InterfaceFacts
    in_force: frozenset[int]
    guarded: bool
    lease_left_s: float
    family: HashFamily = HashFamily.CLUSTERIP

    def new_flow(self, bucket: int) -> PacketVerdict:
        """See `ServingKernel.new_flow`."""
        return _judged([_host(self.service, self.host), self._guard(), self._target(bucket)])

    def established(self, bucket: int, tracked: Tracked | None) -> PacketVerdict:  # noqa: ARG002  the target asks for the bucket alone
        """See `ServingKernel.established`: the same as of a new flow."""
        return self.new_flow(bucket)

    def _guard(self) -> JudgedStage:
        chain = f"filter maglev0-{self.service.vip}"
        if not self.guarded:
            return JudgedStage(
                "guard",
                True,
                "no guard before the CLUSTERIP rule",
                "no daemon guards the rule with a lease: it may be set up by hand",
            )
        if self.lease_left_s == -math.inf:
            return JudgedStage("guard", False, f"{chain}: DROP", "no lease is in force")
        if self.lease_left_s < 0:
            return JudgedStage(
                "guard",
                False,
                f"{chain}: DROP",
                f"lease expired: its timer ran out {-self.lease_left_s:.2f} s ago",
            )
        return JudgedStage("guard", True, f"{chain}: RETURN", _runs(self.lease_left_s))

    def _target(self, bucket: int) -> JudgedStage:
        passes = bucket in self.in_force
        where = f"/proc/net/ipt_CLUSTERIP/{self.service.vip}"
        why = (
            f"bucket {bucket} is in {where}"
            if passes
            else f"bucket {bucket} is not in {where}: not in force here"
        )
        return JudgedStage("target", passes, "filter INPUT: CLUSTERIP", why)


def hashed_ports(hashing: PacketHash, protocol: int) -> tuple[bool, bool]:
    """Whether source port and destination port decide the bucket, for a protocol."""
    # A hash that is not scaled down loses nothing, and what it does not see cannot change it.
    whole = hashing._replace(seed=0, total_nodes=1 << 32)
    plain, source, dest = (
        whole.bucket(PacketFields(_ANYBODY, protocol, *ports)) for ports in ((1, 1), (2, 1), (1, 2))
    )
    return plain != source, plain != dest


def missing_ports(
    hashing: PacketHash, protocol: int, source_port: int | None, dest_port: int | None
) -> tuple[str, ...]:
    """The facts of a flow, besides its source address, that its bucket needs."""
    given = (
        ("the source port, as SRC:PORT", source_port),
        ("the destination port, as DST-PORT", dest_port),
    )
    return tuple(
        name
        for (name, port), counts in zip(given, hashed_ports(hashing, protocol), strict=True)
        if counts and port is None
    )


def _judged(steps: Iterable[JudgedStage]) -> PacketVerdict:
    taken: list[JudgedStage] = []
    for step in steps:
        taken.append(step)
        if step.passes is False:
            break
    return PacketVerdict(tuple(taken))


def _host(service: Service, host: InterfaceFacts) -> JudgedStage:
    link, address = f"link {service.interface}", f"address {service.vip}"
    if not host.link_up:
        return JudgedStage(
            "host",
            False,
            link,
            f"{service.interface} is down or without a carrier: nothing arrives",
        )
    if not host.address:
        return JudgedStage(
            "host",
            False,
            address,
            f"no interface holds {service.vip}: packets to it are not for this host",
        )
    return JudgedStage(
        "host", True, f"{link}, {address}", "the interface is up, and the address is this host's"
    )


def _runs(left_s: float) -> str:
    return f"the lease runs for another {left_s:.2f} s"
