"""Settings and flags that meet them, for tests."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import strategies as st

from maglev0.core.service import Delivery, HashFamily, HashMode
from maglev0.core.settings import (
    FORMAT,
    MAX_LEASE_MS,
    MAX_TOTAL_NODES,
    SEED_LIMIT,
    Settings,
    Wishes,
)

CLUSTERIP, NFTABLES = HashFamily.CLUSTERIP, HashFamily.NFTABLES
AGREED = Settings(5, HashMode.SOURCE_IP, 7, NFTABLES, "03:bf:c6:33:64:01", 2666)
seeds = st.integers(0, SEED_LIMIT - 1)
vips = seeds.map(IPv4Address)
macs = (
    st.binary(min_size=6, max_size=6)
    .map(lambda raw: (bytes([raw[0] | 1]) + raw[1:]).hex(":"))
    .filter(lambda mac: mac != "ff:ff:ff:ff:ff:ff")
)
families = st.sampled_from(
    [(NFTABLES,), (CLUSTERIP,), (NFTABLES, CLUSTERIP), (CLUSTERIP, NFTABLES)]
)
agreed = st.sampled_from(HashFamily).flatmap(
    lambda family: st.builds(
        Settings,
        total_nodes=st.integers(1, MAX_TOTAL_NODES[family]),
        hash_mode=st.sampled_from(HashMode),
        hash_seed=seeds,
        hash_family=st.just(family),
        cluster_mac=macs,
        lease_ms=st.integers(1, MAX_LEASE_MS),
        delivery=st.just(Delivery.FLOOD),
        format=st.just(FORMAT),
    )
)
wishes = st.builds(
    Wishes,
    total_nodes=st.none() | st.integers(1, 16) | st.integers(1, MAX_TOTAL_NODES[NFTABLES]),
    hash_mode=st.none() | st.sampled_from(HashMode),
    hash_seed=st.none() | seeds,
    cluster_mac=st.none() | macs,
    families=families,
)
