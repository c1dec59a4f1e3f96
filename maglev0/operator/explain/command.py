"""maglev0 explain: show which member answers a client, and why.

Usage:
  maglev0 explain [options] SRC [DST-PORT]
  maglev0 explain (-h | --help)

SRC is the client's address, or ADDRESS:PORT. A port may be left out if the cluster's hash mode does
not look at it. The answer is the bucket of the flow, its owner, its owner under the view before,
and the progress of its hand-over. On a machine that serves the VIP, the command also asks this
machine's kernel whether it accepts the flow now, and which rule decides: as a new connection (for
TCP the first SYN, for other protocols any packet), and as the established connection that
connection tracking has, if it has one with these ports.

Options:
  --protocol=<P>          tcp, udp, icmp (an echo request) or a number [default: tcp]
{options}  -h, --help              show this text

With --json there is one object: flow (source, source_port, vip, dest_port, protocol), bucket,
total_nodes, view, owner and before (name, host, state; null: no node), before_known, moving and
in_force (sentences, "" if there is no hand-over and exactly one node has the bucket in force),
owner_lease_left_s (by its last report), and kernel. The value of kernel is null, with
why_not_asked beside it, or has dataplane, interface, new_flow, connection. The last two have
accepts (true, false, null: unknown), stage, rule, why and steps (a list of stage, passes, rule,
why). The value of connection has state, too; it is null if none was looked for, and connection_note
says why.

Exit status: 0 answered, 1 ZooKeeper did not answer or there is no such cluster, 2 wrong flag or
missing port.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Any

from maglev0.core.packet_hash import PacketFields, PacketHash
from maglev0.core.service import HashFamily
from maglev0.core.settings import Settings
from maglev0.core.text import printable
from maglev0.dataplane import verdict
from maglev0.dataplane.verdict import PacketVerdict, ServingKernel, Tracked
from maglev0.errors import ConfigError, DataplaneError
from maglev0.operator import cluster_address, command
from maglev0.operator.explain import bucket_owner
from maglev0.operator.explain.bucket_owner import BucketOwner, Party
from maglev0.telemetry import observer
from maglev0.telemetry.observer import Observation

_PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1}
_NAMES = {number: name for name, number in _PROTOCOLS.items()}
_TCP = _PROTOCOLS["tcp"]
_ACCEPTED_WORDS = {True: "accepted by", False: "refused by", None: "unknown, because of"}
_STEP_WORDS = {True: "passes", False: "drops", None: "unknown"}


@dataclass(frozen=True)
class AskedFlow:
    """The flow that a command line asks about; a port that was left out is None."""

    source: IPv4Address
    source_port: int | None
    dest_port: int | None
    protocol: int

    @property
    def flow(self) -> PacketFields:
        """The fields to hash; a port that was left out is 0."""
        return PacketFields(self.source, self.protocol, self.source_port or 0, self.dest_port or 0)


@dataclass(frozen=True)
class Local:
    """The verdicts of this machine's kernel.

    `why_not` says why it was not asked, `note` why no connection was looked for.
    """

    kernel: ServingKernel | None
    new_flow: PacketVerdict | None
    connection: PacketVerdict | None
    tracked: Tracked | None
    note: str
    why_not: str


@dataclass(frozen=True)
class Explanation:
    """The whole answer."""

    asked: AskedFlow
    vip: IPv4Address
    total_nodes: int
    view: int
    bucket_owner: BucketOwner
    local: Local


def main(arguments: list[str]) -> int:
    """Run `maglev0 explain` with these arguments; returns the exit status."""
    return command.run(__doc__.format(options=cluster_address.OPTIONS), "explain", arguments, _work)


def _work(arguments: dict[str, Any]) -> int:
    asked, address = read_flow(arguments), cluster_address.read(arguments)
    explanation = asyncio.run(_explain(asked, address))
    sys.stdout.write(
        json.dumps(as_json(explanation), indent=2) + "\n"
        if arguments["--json"]
        else as_text(explanation)
    )
    return 0


def read_flow(arguments: Mapping[str, Any]) -> AskedFlow:
    """Read the flow from the command line; ConfigError if it is wrong."""
    address, colon, port = arguments["SRC"].partition(":")
    try:
        source = IPv4Address(address)
    except AddressValueError as error:
        raise ConfigError(
            f"{printable(arguments['SRC'])}: must be an IPv4 address, such as 203.0.113.9 or"
            " 203.0.113.9:40000"
        ) from error
    dest_port = arguments["DST-PORT"]
    return AskedFlow(
        source,
        _port(port) if colon else None,
        None if dest_port is None else _port(dest_port),
        _protocol(arguments["--protocol"]),
    )


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not 0 <= int(text) < 1 << 16:
        raise ConfigError(f"port {printable(text)}: must be a whole number from 0 to 65535")
    return int(text)


def _protocol(text: str) -> int:
    if text in _PROTOCOLS:
        return _PROTOCOLS[text]
    if not re.fullmatch("[0-9]{1,3}", text) or int(text) > 255:
        raise ConfigError(
            f"--protocol={printable(text)}: must be tcp, udp, icmp or a whole number from 0 to 255"
        )
    return int(text)


async def _explain(asked: AskedFlow, address: cluster_address.ClusterAddress) -> Explanation:
    vip = cluster_address.vip(address)
    async with cluster_address.session(address) as session:
        seen = await observer.observe(session, await cluster_address.cluster(session, address, vip))
    bucket = bucket_of(asked, seen.settings)
    return Explanation(
        asked,
        vip,
        seen.settings.total_nodes,
        seen.view_number,
        bucket_owner.of(seen, bucket),
        await ask_kernel(asked, seen, vip, bucket),
    )


def bucket_of(asked: AskedFlow, settings: Settings) -> int:
    """The flow's bucket; ConfigError names a missing port that the hash mode needs."""
    hashing = PacketHash(
        settings.hash_family, settings.hash_mode, settings.hash_seed, settings.total_nodes
    )
    missing = verdict.missing_ports(hashing, asked.protocol, asked.source_port, asked.dest_port)
    if missing:
        raise ConfigError(
            f"the cluster's hash mode {settings.hash_mode} looks at ports:"
            f" give {' and '.join(missing)}"
        )
    return hashing.bucket(asked.flow)


async def ask_kernel(asked: AskedFlow, seen: Observation, vip: IPv4Address, bucket: int) -> Local:
    """Read what this machine's kernel has in force, and judge the flow by it.

    A kernel that cannot be read is no error; the answer says why.
    """
    try:
        kernel = await read_kernel(seen.settings, vip)
    except DataplaneError as error:
        return Local(None, None, None, None, "", str(error))
    tracked, note = _look_up(asked, kernel, vip)
    judged = None if note else kernel.established(bucket, tracked)
    return Local(kernel, kernel.new_flow(bucket), judged, tracked, note, "")


async def read_kernel(settings: Settings, vip: IPv4Address) -> ServingKernel:
    """Read what the dataplane of the cluster's hash family has in force here.

    Raises DataplaneError that says why it cannot be read.
    """
    # Imported here because each needs large libraries, and a machine needs only one of them.
    if settings.hash_family is HashFamily.CLUSTERIP:
        from maglev0.dataplane.clusterip import state as clusterip_state  # noqa: PLC0415

        return await clusterip_state.read(settings, vip)
    from maglev0.dataplane.nftables import state as nfstate  # noqa: PLC0415

    return await nfstate.read(settings, vip)


def _look_up(
    asked: AskedFlow, kernel: ServingKernel, vip: IPv4Address
) -> tuple[Tracked | None, str]:
    """The connection of the flow, and why it was not looked for ("" if it was)."""
    if asked.protocol != _TCP:
        return None, "every packet of this protocol is judged as a new connection"
    if kernel.family is HashFamily.CLUSTERIP:
        return None, "CLUSTERIP judges every packet as a new connection"
    if asked.source_port is None or asked.dest_port is None:
        return None, "not looked for: give SRC:PORT and DST-PORT"
    from maglev0.dataplane.conntrack import lookup  # noqa: PLC0415

    try:
        return lookup.look_up(vip, asked.flow), ""
    except DataplaneError as error:
        return None, str(error)


def as_json(explanation: Explanation) -> dict[str, Any]:
    """The answer as the help text describes it."""
    asked, held, local = explanation.asked, explanation.bucket_owner, explanation.local
    kernel: dict[str, Any] = {"kernel": None, "why_not_asked": local.why_not}
    if local.kernel is not None:
        kernel["kernel"] = {
            "dataplane": local.kernel.family,
            "interface": local.kernel.service.interface,
            "new_flow": _verdict_json(local.new_flow),
            "connection": local.connection
            and {"state": local.tracked and local.tracked.state}
            | (_verdict_json(local.connection) or {}),
            "connection_note": local.note,
        }
    return {
        "flow": {
            "source": str(asked.source),
            "source_port": asked.source_port,
            "vip": str(explanation.vip),
            "dest_port": asked.dest_port,
            "protocol": asked.protocol,
        },
        "bucket": held.bucket,
        "total_nodes": explanation.total_nodes,
        "view": explanation.view,
        "owner": held.owner and held.owner._asdict(),
        "before": held.before and held.before._asdict(),
        "before_known": held.knows_before,
        "moving": held.move,
        "in_force": held.in_force,
        "owner_lease_left_s": held.report and held.report.lease_left_s,
        **kernel,
    }


def _verdict_json(judged: PacketVerdict | None) -> dict[str, Any] | None:
    if judged is None:
        return None
    decisive = judged.decisive
    steps = [step._asdict() for step in judged.steps]
    return {
        "accepts": judged.accepts,
        "stage": decisive.stage,
        "rule": decisive.rule,
        "why": decisive.why,
        "steps": steps,
    }


def as_text(explanation: Explanation) -> str:
    """The answer as text."""
    held = explanation.bucket_owner
    lines = [
        ("flow", _flow_text(explanation)),
        ("bucket", f"{held.bucket} of {explanation.total_nodes}"),
        ("owner", f"{_party_text(held.owner)}, under view {explanation.view}"),
        ("before", _before_text(held)),
        ("moving", held.move),
        (
            "in force",
            held.in_force and f"{held.in_force}, by the last reports of the members",
        ),
        ("lease", _lease_text(held)),
    ]
    named = "".join(f"{name:<12}{text}\n" for name, text in lines if text)
    return named + _local_text(explanation.local)


def _flow_text(explanation: Explanation) -> str:
    asked = explanation.asked
    name = _NAMES.get(asked.protocol, f"protocol {asked.protocol}")
    source = asked.source if asked.source_port is None else f"{asked.source}:{asked.source_port}"
    port = "" if asked.dest_port is None else f":{asked.dest_port}"
    return f"{name} from {source} to {explanation.vip}{port}"


def _party_text(party: Party | None) -> str:
    return (
        "no node"
        if party is None
        else f"{party.name} ({', '.join(filter(None, (party.host, party.state)))})"
    )


def _before_text(held: BucketOwner) -> str:
    if not held.knows_before:
        return "unknown: no member has reported the view before, or remembers it"
    return "the same" if held.before == held.owner else _party_text(held.before)


def _lease_text(held: BucketOwner) -> str:
    if held.owner is None or held.report is None:
        return ""
    left_s = held.report.lease_left_s
    state = f"had {left_s:.2f} s left" if left_s > 0 else "had expired"
    return f"the lease of {held.owner.name} {state} at its last report"


def _local_text(local: Local) -> str:
    if local.kernel is None or local.new_flow is None:
        return f"{'this host':<12}the kernel was not asked: {local.why_not}\n"
    head = f"{'this host':<12}{local.kernel.family} on {local.kernel.service.interface}\n"
    steps = "".join(
        f"    {step.stage:<8}{_STEP_WORDS[step.passes]:<8}{step.rule}\n{'':<20}{step.why}\n"
        for step in local.new_flow.steps
    )
    return head + _verdict_text("new connection", local.new_flow) + steps + _connection_text(local)


def _connection_text(local: Local) -> str:
    if local.connection is None:
        return f"  established connection: {local.note}\n"
    known = "unknown here" if local.tracked is None else local.tracked.state
    return (
        _verdict_text(f"established connection ({known})", local.connection)
        + f"{'':<20}{local.connection.decisive.why}\n"
    )


def _verdict_text(what: str, judged: PacketVerdict) -> str:
    return f"  {what}: {_ACCEPTED_WORDS[judged.accepts]} {judged.decisive.rule}\n"
