"""Compare `maglev0 explain` with a kernel that has CLUSTERIP.

The comparison is the one for nftables. `tests.vm.explain_flows` runs this module from outside.
"""

from __future__ import annotations

import asyncio
import random
import sys
import warnings

from maglev0.core.service import HashFamily, HashMode
from maglev0.dataplane.clusterip.dataplane import ClusterIP
from tests.kernel import explain_flows
from tests.kernel.explain_flows import DEFAULTS, Accepted, Cluster, Tally
from tests.vm.guest.space import Space
from tests.vm.guest.wire import VIP, Wire

SIZES = (1, 5, 16)


async def on_clusterip(mode: HashMode, rng: random.Random, accepted: Accepted, flows: int) -> Tally:
    """Compare flows on clusters of each size in `SIZES`."""
    tally = Tally()
    for turn, size in enumerate(SIZES, 1):
        cluster = Cluster(explain_flows.settings(HashFamily.CLUSTERIP, mode, size, rng), rng)
        dataplane = ClusterIP(cluster.settings.service(VIP, "eth0"), cluster.settings.lease_ms)
        await dataplane.open()
        try:
            await explain_flows.judge(
                dataplane, cluster, accepted, tally, flows * turn // len(SIZES) - tally.flows
            )
        finally:
            await dataplane.close()
    return tally


def run(flows: int, seed: int, wire: Wire) -> dict[HashMode, Tally]:
    """Compare `flows` flows, in equal parts for each hash mode."""
    shares = explain_flows.shares(flows)
    return {
        mode: asyncio.run(on_clusterip(mode, random.Random(f"{seed} {mode}"), wire.accepted, share))
        for mode, share in shares.items()
    }


def main() -> int:
    """Print the report; return 1 if any flow disagrees."""
    warnings.simplefilter("ignore")  # python-iptables leaves pipes open at import
    count, seed = (int(word) for word in [*sys.argv[1:], *DEFAULTS[len(sys.argv) - 1 :]])
    with Space.made() as space, Wire.laid(space) as wire:
        tallies = run(count, seed, wire)
    sys.stdout.write(f"seed {seed}\n{explain_flows.report(HashFamily.CLUSTERIP, tallies)}\n")
    return 1 if any(tally.wrong for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
