"""The two IP families, and what each is called by those who handle its packets.

Pure: imports no I/O.

Sources: RFC 791, 792, 4443, 8200; nft(8); include/linux/socket.h; include/uapi/linux/if_ether.h.
"""

from __future__ import annotations

import enum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, TypeAlias

Vip: TypeAlias = IPv4Address | IPv6Address
"""A VIP's address where the code only passes it on; the flag `--vip` accepts IPv4 only."""


class _Facts(NamedTuple):
    bits: int
    nft_header: str
    nft_address: str
    icmp: int
    nft_icmp: str
    icmp_errors: tuple[str, ...]
    address_family: int
    ether_type: int


class IpFamily(enum.Enum):
    """One IP family.

    `bits` is an address's length. `nft_header` and `nft_address` are nft's words for the header and
    for the type of an address. `icmp` is the number of its ICMP in the IP header, `nft_icmp` nft's
    word for it, and `icmp_errors` are the ICMP types, in nft's words, that report an error about
    another packet. `address_family` is the number in sockets, conntrack's nfgenmsg and sock_diag
    (AF_INET, AF_INET6). `ether_type` is the number in an Ethernet frame.
    """

    V4 = _Facts(
        bits=32,
        nft_header="ip",
        nft_address="ipv4_addr",
        icmp=1,
        nft_icmp="icmp",
        icmp_errors=("destination-unreachable", "redirect", "time-exceeded", "parameter-problem"),
        address_family=2,
        ether_type=0x0800,
    )
    V6 = _Facts(
        bits=128,
        nft_header="ip6",
        nft_address="ipv6_addr",
        icmp=58,
        nft_icmp="icmpv6",
        icmp_errors=(
            "destination-unreachable",
            "packet-too-big",
            "time-exceeded",
            "parameter-problem",
        ),
        address_family=10,
        ether_type=0x86DD,
    )

    @classmethod
    def of(cls, address: Vip) -> IpFamily:
        """The family of an address."""
        return cls.V4 if address.version == 4 else cls.V6

    @property
    def bits(self) -> int:
        """The length of an address in bits."""
        return self.value.bits

    @property
    def nft_header(self) -> str:
        """The word of nft for the IP header: ip, ip6."""
        return self.value.nft_header

    @property
    def nft_address(self) -> str:
        """The word of nft for the type of an address: ipv4_addr, ipv6_addr."""
        return self.value.nft_address

    @property
    def icmp(self) -> int:
        """The number of the family's ICMP in the IP header."""
        return self.value.icmp

    @property
    def nft_icmp(self) -> str:
        """The word of nft for the family's ICMP: icmp, icmpv6."""
        return self.value.nft_icmp

    @property
    def icmp_errors(self) -> tuple[str, ...]:
        """The ICMP types that report an error about another packet, in the words of nft."""
        return self.value.icmp_errors

    @property
    def address_family(self) -> int:
        """The number in sockets, in conntrack's nfgenmsg and in sock_diag."""
        return self.value.address_family

    @property
    def ether_type(self) -> int:
        """The number in an Ethernet frame."""
        return self.value.ether_type
