"""Selects the dataplane: the one that was asked for, or the best one that this machine can run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from ipaddress import IPv4Address

from maglev0.core.service import HashFamily, Service, Xdp
from maglev0.dataplane.dry_run import DryRun
from maglev0.errors import DataplaneError, UnavailableError
from maglev0.protocol.ports.dataplane import Dataplane

# A dataplane's module is imported when it is needed: python-iptables and libnftables are large, and
# a node needs one of them.
log = logging.getLogger(__name__)


def runnable(vip: IPv4Address, asked: HashFamily | None) -> tuple[HashFamily, ...]:
    """Return the hash families that can run here, the best first; only the one asked for, if any.

    Raises `UnavailableError` when there is none, saying what is missing and what fixes it.
    """
    if asked is not None:
        _CHECKS[asked]()
        return (asked,)
    order, why = _preference(vip)
    found: list[HashFamily] = []
    missing: list[str] = []
    for family in order:
        try:
            _CHECKS[family]()
        except UnavailableError as error:
            missing.append(str(error))
        else:
            found.append(family)
    if not found:
        raise UnavailableError("no dataplane can run here: " + "; ".join(missing))
    log.info("dataplane %s: %s", found[0], why if found[0] is order[0] else missing[0])
    return tuple(found)


def make(
    family: HashFamily,
    service: Service,
    lease_ms: int,
    xdp: Xdp,
    *,
    dry_run: bool,
    counted: bool = False,
) -> Dataplane:
    """Make the dataplane of one service, without touching the kernel.

    `counted` makes the early stage count what it refuses, which costs it 2 % more per packet.
    """
    if dry_run:
        return DryRun(family)
    if family is HashFamily.CLUSTERIP:
        from maglev0.dataplane.clusterip.dataplane import ClusterIP  # noqa: PLC0415

        if xdp in (Xdp.NATIVE, Xdp.GENERIC):
            log.warning("--xdp=%s is ignored: it works with nftables only", xdp)

        return ClusterIP(service, lease_ms)
    from maglev0.dataplane.nftables.dataplane import Nftables  # noqa: PLC0415

    return Nftables(service, lease_ms, xdp=xdp, counted=counted)


def close_unguarded(vip: IPv4Address) -> None:
    """Put no bucket in force under a CLUSTERIP rule that has no lease, such as one set up by hand.

    This comes before anything else is known: another node may own the rule's buckets.
    """
    from maglev0.dataplane.clusterip import dataplane as clusterip  # noqa: PLC0415

    with contextlib.suppress(DataplaneError):
        clusterip.empty_unguarded(vip)


async def remove_leftovers(vip: IPv4Address) -> None:
    """Remove what a killed daemon left for the VIP, of any dataplane."""
    from maglev0.dataplane.clusterip import dataplane as clusterip  # noqa: PLC0415
    from maglev0.dataplane.nftables import dataplane as nftables  # noqa: PLC0415

    for leftover in (nftables, clusterip):
        with contextlib.suppress(DataplaneError):
            await leftover.remove_leftovers(vip)


def rule_by_hand(vip: IPv4Address, families: tuple[HashFamily, ...]) -> Service | None:
    """Return the service of a CLUSTERIP rule set up here by hand; None without one.

    None as well when CLUSTERIP is not the dataplane to be used.
    """
    if families[0] is not HashFamily.CLUSTERIP:
        return None
    from maglev0.dataplane.clusterip import dataplane as clusterip  # noqa: PLC0415

    return clusterip.rule_by_hand(vip)


def _preference(vip: IPv4Address) -> tuple[tuple[HashFamily, HashFamily], str]:
    from maglev0.dataplane.clusterip import proc_file  # noqa: PLC0415

    if proc_file.is_set_up(vip):
        return (
            HashFamily.CLUSTERIP,
            HashFamily.NFTABLES,
        ), f"a CLUSTERIP rule for {vip} is set up here"
    return (
        HashFamily.NFTABLES,
        HashFamily.CLUSTERIP,
    ), "the kernel and libnftables can, and no CLUSTERIP rule is set up"


def _check_nftables() -> None:
    from maglev0.dataplane.nftables import dataplane as nftables  # noqa: PLC0415

    nftables.check()


def _check_clusterip() -> None:
    from maglev0.dataplane.clusterip import dataplane as clusterip  # noqa: PLC0415

    clusterip.check()


_CHECKS: dict[HashFamily, Callable[[], None]] = {
    HashFamily.CLUSTERIP: _check_clusterip,
    HashFamily.NFTABLES: _check_nftables,
}
