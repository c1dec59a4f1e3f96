"""The kernel's packet hash, ported to user space: the bucket of a packet.

Pure: imports no I/O.

Sources: include/linux/jhash.h (Bob Jenkins' lookup3) and `reciprocal_scale` for both hash families;
net/ipv4/netfilter/ipt_CLUSTERIP.c, `clusterip_hashfn`, up to Linux 6.2; net/netfilter/nft_hash.c,
`nft_jhash_eval`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from maglev0.core.service import HashFamily, HashMode

if TYPE_CHECKING:
    from ipaddress import IPv4Address


class PacketFields(NamedTuple):
    """The fields of a packet that the hash may read.

    `protocol` is the IP header's number. The ports count where the protocol has them; for ESP and
    AH, CLUSTERIP reads the upper and the lower half of the SPI as ports. All are plain numbers, the
    ports 0..65535.
    """

    source: IPv4Address
    protocol: int
    source_port: int = 0
    dest_port: int = 0


class PacketHash(NamedTuple):
    """The mapping from packets to buckets in one cluster.

    `seed` is an unsigned 32-bit number, `total_nodes` the number of buckets, from 1.
    """

    family: HashFamily
    mode: HashMode
    seed: int
    total_nodes: int

    def bucket(self, flow: PacketFields) -> int:
        """Return the bucket of the flow's packets, 1..total_nodes, as this machine's kernel does.

        With nftables that is `jhash … mod total_nodes seed SEED offset 1` over `ip saddr`, then
        `th sport`, then `th dport`, as many of them as the mode names; and over `ip saddr` alone
        where the protocol is neither TCP nor UDP.
        """
        key = _clusterip_key(flow) if self.family is HashFamily.CLUSTERIP else _nftables_key(flow)
        hashed = jhash(key[: _KEY_BYTES[self.mode]], self.seed)
        return (hashed * self.total_nodes >> 32) + 1


_KEY_BYTES = {
    HashMode.SOURCE_IP: 4,
    HashMode.SOURCE_IP_PORT: 8,
    HashMode.SOURCE_IP_PORT_DEST_PORT: 12,
}

_TCP, _UDP, _DCCP, _ESP, _AH, _SCTP, _UDPLITE = 6, 17, 33, 50, 51, 132, 136
_NFTABLES_PORTS = frozenset({_TCP, _UDP})
# include/linux/in.h, proto_ports_offset
_CLUSTERIP_PORTS = frozenset({_TCP, _UDP, _DCCP, _ESP, _AH, _SCTP, _UDPLITE})


def _clusterip_key(flow: PacketFields) -> bytes:
    """The words that the target hands to `jhash_1word` to `jhash_3words`, the lowest byte first."""
    if flow.protocol not in _CLUSTERIP_PORTS:
        return struct.pack("<III", int(flow.source), 0, 0)
    # The target turns the address into a number but takes the ports as they lie in the packet, so
    # little-endian machines swap their bytes.
    ports = struct.unpack("=HH", struct.pack(">HH", flow.source_port, flow.dest_port))
    return struct.pack("<III", int(flow.source), *ports)


def _nftables_key(flow: PacketFields) -> bytes:
    """The registers that `nft_jhash_eval` hands to `jhash`.

    Each field lies at the start of a zeroed 32-bit register in the packet's byte order.
    """
    key = struct.pack(">4sHxxHxx", flow.source.packed, flow.source_port, flow.dest_port)
    return key if flow.protocol in _NFTABLES_PORTS else key[:4]


_U32 = 0xFFFF_FFFF
_JHASH_INITVAL = 0xDEAD_BEEF
_BLOCK_BYTES = 12
_MIX_ROTATIONS = (4, 6, 8, 16, 19, 4)  # lookup3's `mix`
_FINAL_ROTATIONS = (14, 11, 25, 16, 4, 14, 24)  # lookup3's `final`


def jhash(key: bytes, seed: int) -> int:
    """Return the 32-bit Jenkins hash of bytes of any length, as the kernel's `jhash` does here.

    `seed` is an unsigned 32-bit number. One to three words in little-endian order give what
    `jhash_1word`, `jhash_2words` and `jhash_3words` give for them.
    """
    a: int
    b: int
    c: int
    a = b = c = (_JHASH_INITVAL + len(key) + seed) & _U32
    if not key:
        return c
    last = (len(key) - 1) // _BLOCK_BYTES * _BLOCK_BYTES  # where the last block begins
    # The kernel reads whole blocks in the machine's byte order, and the last one byte by byte.
    for first, second, third in struct.iter_unpack("=III", key[:last]):
        a, b, c = _mixed(a + first & _U32, b + second & _U32, c + third & _U32)
    first, second, third = struct.unpack("<III", key[last:].ljust(_BLOCK_BYTES, b"\0"))
    a, b, c = a + first & _U32, b + second & _U32, c + third & _U32
    for rotation in _FINAL_ROTATIONS:
        rotated = b << rotation | b >> 32 - rotation
        # lookup3 works on c, a, b in turn; renaming them after each step makes its seven lines one.
        a, b, c = b, (c ^ b) - rotated & _U32, a
    return b


def _mixed(a: int, b: int, c: int) -> tuple[int, int, int]:
    for rotation in _MIX_ROTATIONS:
        rotated = (c << rotation | c >> 32 - rotation) & _U32
        # lookup3 works on a, b, c in turn; six steps rename them back.
        a, b, c = b, c + b & _U32, (a - c & _U32) ^ rotated
    return a, b, c
