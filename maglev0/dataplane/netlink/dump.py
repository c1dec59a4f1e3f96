"""Netlink dumps that do not hold the loop up, however long the kernel takes for a step.

A dump's filter is applied by the kernel while it fills the next datagram: where nothing matches,
one call goes through a whole table, which takes it tens of milliseconds. So every call is made by a
thread, which holds no lock of the interpreter meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncGenerator

from maglev0.dataplane.netlink.message import DONE, ERROR, HEADER

_LENGTH_AND_KIND = struct.Struct("=IH")  # of struct nlmsghdr
_BUFFER = (
    1 << 15
    # the most that the kernel puts into one datagram of a dump (netlink_recvmsg,
    # net/netlink/af_netlink.c)
)
_DATAGRAMS = 2  # at a time: some 300 entries, which the loop digests in a few milliseconds
_TIMEOUT_S = 10.0  # the kernel always has an answer; what is waited for is the thread's turn


async def dumped(protocol: int, request: bytes) -> AsyncGenerator[bytes, None]:
    """Yield the messages that answer a request, many at a time.

    The messages that end the dump are left out. The namespace is that of the calling thread.

    Raises OSError when the kernel refuses.
    """
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
    ) as kernel:
        kernel.settimeout(_TIMEOUT_S)
        await asyncio.to_thread(kernel.send, request)  # returns with the first datagram filled
        complete = False
        while not complete:
            datagrams, complete = await asyncio.to_thread(_receive, kernel)
            for datagram in datagrams:
                yield datagram
            await asyncio.sleep(0)


def _receive(kernel: socket.socket) -> tuple[list[bytes], bool]:
    """Read some datagrams; return their entries, and whether the dump is complete."""
    datagrams: list[bytes] = []
    while len(datagrams) < _DATAGRAMS:
        datagram = kernel.recv(_BUFFER)
        end = _end_of_entries(datagram)
        if end < len(datagram):
            return [*datagrams, datagram[:end]], True
        datagrams.append(datagram)
    return datagrams, False


def _end_of_entries(datagram: bytes) -> int:
    """Where the message stands that ends a dump, behind all entries if there is none.

    OSError when it says that the dump failed.
    """
    offset = 0
    while offset < len(datagram):
        length, kind = _LENGTH_AND_KIND.unpack_from(datagram, offset)
        if kind in (ERROR, DONE):
            code = -struct.unpack_from("=i", datagram, offset + HEADER.size)[0]
            if code:
                raise OSError(code, os.strerror(code))
            break
        offset += (length + 3) & ~3
    return offset
