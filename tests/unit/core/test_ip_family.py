from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

import pytest

from maglev0.core.ip_family import IpFamily, Vip


@pytest.mark.parametrize(
    ("address", "family"),
    [
        (IPv4Address("198.51.100.1"), IpFamily.V4),
        (IPv6Address("2001:db8::1"), IpFamily.V6),
        (IPv6Address("::ffff:198.51.100.1"), IpFamily.V6),
    ],
)
def test_an_address_has_the_family_of_its_version(address: Vip, family: IpFamily) -> None:
    assert IpFamily.of(address) is family
    assert len(address.packed) * 8 == family.bits


def test_the_numbers_are_those_of_this_system() -> None:
    assert IpFamily.V4.address_family == socket.AF_INET
    assert IpFamily.V6.address_family == socket.AF_INET6
    assert IpFamily.V4.icmp == socket.IPPROTO_ICMP
    assert IpFamily.V6.icmp == socket.IPPROTO_ICMPV6
    assert IpFamily.V4.ether_type == 0x0800  # include/uapi/linux/if_ether.h: ETH_P_IP
    assert IpFamily.V6.ether_type == 0x86DD  # ETH_P_IPV6


def test_the_words_are_those_of_nft() -> None:
    """See nft(8), payload expressions and data types."""
    words = {
        family: (family.nft_header, family.nft_address, family.nft_icmp) for family in IpFamily
    }
    assert words == {
        IpFamily.V4: ("ip", "ipv4_addr", "icmp"),
        IpFamily.V6: ("ip6", "ipv6_addr", "icmpv6"),
    }
