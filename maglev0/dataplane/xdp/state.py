"""Reads what the XDP program on an interface passes to a VIP, from its pinned maps.

Any process may keep the program.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from maglev0.core.service import Service
from maglev0.dataplane.verdict import XdpFacts
from maglev0.dataplane.xdp import filter as xdp_filter
from maglev0.dataplane.xdp import maps
from maglev0.dataplane.xdp.libbpf import Bpf
from maglev0.dataplane.xdp.pins import places
from maglev0.errors import UnavailableError


def read(service: Service, index: int) -> XdpFacts | None:
    """Return what the program on the interface of that index is and does; None without one.

    Raises `BpfError`.
    """
    try:
        bpf = Bpf()
    except UnavailableError:
        return None  # without the library no daemon here has a program
    mode = bpf.mode(index)
    place = _place(bpf, index)
    if place is not None:
        return XdpFacts(xdp_filter.MODES.get(mode, "another way"), _admitted(bpf, place, service))
    return XdpFacts(xdp_filter.MODES[mode], None) if mode else None


def _place(bpf: Bpf, index: int) -> Path | None:
    """Return where our program on that interface is pinned."""
    found = places(xdp_filter.file_system() / "maglev0")
    return next(
        (
            place.path
            for place in found
            if place.ifindex == index and bpf.interface_of(place.link) == index
        ),
        None,
    )


def _admitted(bpf: Bpf, place: Path, service: Service) -> frozenset[int] | None:
    """Return the buckets of the VIP that the program passes.

    All when it does not know the VIP; None when it hashes by other settings.
    """
    with bpf.opened(place / "vips") as vips:
        if service.vip.packed not in bpf.keys(vips, len(service.vip.packed), maps.MAX_VIPS):
            return frozenset(range(1, service.total_nodes + 1))
        value = bpf.look_up(vips, service.vip.packed, maps.VIP_SIZE)
    slot = maps.slot_of(value)
    if value != maps.vip_value(service, slot):
        return None
    with bpf.opened(place / "admitted") as admitted:
        return frozenset(_buckets(bpf, admitted, slot, service.total_nodes))


def _buckets(bpf: Bpf, admitted: int, slot: int, total_nodes: int) -> Iterator[int]:
    for first in range(1, total_nodes + 1, maps.WORD_BITS):
        key = struct.pack("=I", slot * maps.WORDS + first // maps.WORD_BITS)
        word = int.from_bytes(bpf.look_up(admitted, key, maps.WORD_BITS // 8), sys.byteorder)
        if word:
            yield from (
                bucket
                for bucket in range(first, min(first + maps.WORD_BITS, total_nodes + 1))
                if word >> bucket - first & 1
            )
