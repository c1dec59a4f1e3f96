"""The kernel's packet hash, ported to user space: which bucket a packet falls in.

Pure: imports no I/O.

Sources: include/linux/jhash.h (Bob Jenkins' lookup3) and `reciprocal_scale` for both families; net/ipv4/netfilter/ipt_CLUSTERIP.c,
`clusterip_hashfn`, up to Linux 6.2; net/netfilter/nft_hash.c, `nft_jhash_eval`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from maglev0.core.service import HashFamily, HashMode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address


class PacketFields(NamedTuple):
    """What the hash may see of a packet.

    `protocol` is the IP header's number. The ports count where the protocol has them; for ESP and AH, CLUSTERIP takes the upper and the lower
    half of the SPI for ports. All are plain numbers, the ports 0..65535.
    """

    source: IPv4Address
    protocol: int
    source_port: int = 0
    dest_port: int = 0


class PacketHash(NamedTuple):
    """One cluster's way from a packet to its bucket: `seed` is an unsigned 32-bit number, `total_nodes` the number of buckets, from 1."""

    family: HashFamily
    mode: HashMode
    seed: int
    total_nodes: int

    def node_number(self, flow: PacketFields) -> int:
        """Return the bucket of the flow's packets, 1..total_nodes, as this machine's kernel computes it.

        For nftables that is what `jhash … mod total_nodes seed SEED offset 1` gives over `ip saddr`, then `th sport`, then `th dport`, as many
        of them as the mode names; and over `ip saddr` alone where the protocol is neither TCP nor UDP.
        """
        words = (
            _clusterip_words(flow) if self.family is HashFamily.CLUSTERIP else _nftables_words(flow)
        )
        hashed = jhash(words[: _FIELDS[self.mode]], self.seed)
        return (hashed * self.total_nodes >> 32) + 1


_FIELDS = {HashMode.SOURCE_IP: 1, HashMode.SOURCE_IP_PORT: 2, HashMode.SOURCE_IP_PORT_DEST_PORT: 3}

_TCP, _UDP, _DCCP, _ESP, _AH, _SCTP, _UDPLITE = 6, 17, 33, 50, 51, 132, 136
_NFTABLES_PORTS = frozenset({_TCP, _UDP})
_CLUSTERIP_PORTS = frozenset(
    {_TCP, _UDP, _DCCP, _ESP, _AH, _SCTP, _UDPLITE}
)  # include/linux/in.h, proto_ports_offset


def _clusterip_words(flow: PacketFields) -> tuple[int, ...]:
    if flow.protocol not in _CLUSTERIP_PORTS:
        return int(flow.source), 0, 0
    # The target turns the address into a number but takes the ports as they lie in the packet, byte-swapped on little-endian machines.
    return int(flow.source), *struct.unpack(
        "=HH", struct.pack(">HH", flow.source_port, flow.dest_port)
    )


def _nftables_words(flow: PacketFields) -> tuple[int, ...]:
    # Each field lies at the start of a zeroed 32-bit register in the packet's byte order; jhash reads the registers in the machine's.
    registers = struct.pack(">4sHxxHxx", flow.source.packed, flow.source_port, flow.dest_port)
    words = struct.unpack("=III", registers)
    return words if flow.protocol in _NFTABLES_PORTS else words[:1]


_U32 = 0xFFFF_FFFF
_JHASH_INITVAL = 0xDEAD_BEEF
_FINAL_ROTATIONS = (14, 11, 25, 16, 4, 14, 24)  # lookup3's `final`


def jhash(words: Sequence[int], initval: int) -> int:
    """Return the 32-bit Jenkins hash of one to three 32-bit words.

    The same as the kernel's `jhash_1word`, `jhash_2words` and `jhash_3words`, and as `jhash` over their 4, 8 or 12 bytes.
    """
    start = _JHASH_INITVAL + 4 * len(words) + initval
    a, b, c = ((start + word) & _U32 for word in (*words, 0, 0)[:3])
    for rotation in _FINAL_ROTATIONS:
        rotated = b << rotation | b >> 32 - rotation
        # lookup3 works on c, a, b in turn; renaming them after each step makes its seven lines one.
        a, b, c = b, (c ^ b) - rotated & _U32, a
    return b
