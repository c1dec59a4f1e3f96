"""Netlink notices that somebody else changed what a dataplane stands on.

They only wake: what changed is found out by looking, so a lost notice (ENOBUFS) is as good as one
that arrived.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
import struct

from maglev0.errors import DataplaneError

_RTMGRP_LINK = 1  # include/uapi/linux/rtnetlink.h
_RTMGRP_IPV4_IFADDR = 0x10
_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES = 7  # include/uapi/linux/netfilter/nfnetlink.h
_SOL_NETLINK, _ADD_MEMBERSHIP, _DROP_MEMBERSHIP = 270, 1, 2  # include/uapi/linux/netlink.h
_NFT_MSG_NEWGEN = (
    10 << 8
) | 15  # NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN: closes the notices of one transaction
_NFTA_GEN_PROC_PID = 2
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_NFGENMSG_SIZE = 4
_DATAGRAM = 1 << 16
_SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h
_SO_ATTACH_FILTER = 26
_BUFFER = 8 << 20  # holds the notices of our own largest transaction; taken only while they wait


class KernelEvents:
    """Waits on two netlink sockets for changes by other processes.

    `wait` returns when links or addresses changed, or when another process changed the tables of
    this name.

    `port` is the netlink port of this process's own frequent changes, whose notices the kernel
    keeps to itself.
    """

    def __init__(self, table: str, port: int) -> None:
        self._table = table.encode() + b"\0"
        self._touched = False
        self._route = _listen(socket.NETLINK_ROUTE, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR)
        self._tables = _listen(_NETLINK_NETFILTER, 0)
        self.watch_tables(watch=True)
        _ignore(self._tables, port)

    def watch_tables(self, *, watch: bool) -> None:
        """Hear of changed tables, or not.

        For each element of a set the kernel makes a notice, which takes longer than the change
        itself.
        """
        self._tables.setsockopt(
            _SOL_NETLINK, _ADD_MEMBERSHIP if watch else _DROP_MEMBERSHIP, _NFNLGRP_NFTABLES
        )

    def close(self) -> None:
        """Stop listening."""
        self._route.close()
        self._tables.close()

    async def wait(self) -> None:
        """Return at the next relevant change; notices that came meanwhile are taken together."""
        tasks = [
            asyncio.create_task(self._route_changed()),
            asyncio.create_task(self._tables_changed()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _route_changed(self) -> None:
        await _receive(self._route)
        _drain(self._route)

    async def _tables_changed(self) -> None:
        while not self._relevant(await _receive(self._tables)):
            pass
        _drain(self._tables)

    def _relevant(self, datagram: bytes | None) -> bool:
        """Whether this datagram ends a transaction of another process on our table.

        Lost notices count as such a transaction.
        """
        if datagram is None:
            return True
        # The kernel closes the notices of each transaction with a datagram of its own
        # (nf_tables_gen_notify, net/netfilter/nf_tables_api.c).
        if _HEADER.unpack_from(datagram)[1] != _NFT_MSG_NEWGEN:
            self._touched |= self._table in datagram
            return False
        touched, self._touched = self._touched, False
        return touched and _process(datagram) != os.getpid()


def _listen(protocol: int, groups: int) -> socket.socket:
    try:
        listener = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            protocol,
        )
        listener.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        listener.bind((0, groups))
    except OSError as error:
        raise DataplaneError(
            f"listening to the kernel's notices: {error.strerror}; run as root"
        ) from error
    return listener


def _ignore(listener: socket.socket, port: int) -> None:
    """Let the kernel drop the notices of changes that came from a netlink port.

    Nobody need wake for them, several times a second for ever.
    """
    # Each notice bears the port in its header (nlmsg_pid), in host order; a packet filter loads
    # words in network order.
    port_offset, wanted = 12, socket.htonl(port)
    program = (ctypes.c_char * (8 * 4)).from_buffer_copy(
        struct.pack("=HBBI", 0x20, 0, 0, port_offset)  # BPF_LD | BPF_W | BPF_ABS
        + struct.pack("=HBBI", 0x15, 0, 1, wanted)  # BPF_JMP | BPF_JEQ | BPF_K
        + struct.pack("=HBBI", 0x06, 0, 0, 0)  # BPF_RET: nothing of it
        + struct.pack("=HBBI", 0x06, 0, 0, 0xFFFFFFFF)  # BPF_RET: all of it
    )
    listener.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 4, ctypes.addressof(program))
    )


async def _receive(listener: socket.socket) -> bytes | None:
    """Return the next datagram, or `None` when the kernel had to drop some."""
    try:
        return await asyncio.get_running_loop().sock_recv(listener, _DATAGRAM)
    except OSError as error:
        if error.errno == errno.ENOBUFS:
            return None
        raise DataplaneError(f"listening to the kernel's notices: {error.strerror}") from error


def _drain(listener: socket.socket) -> None:
    while True:
        try:
            listener.recv(_DATAGRAM)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise DataplaneError(
                    f"listening to the kernel's notices: {error.strerror}"
                ) from error


def _process(notice: bytes) -> int:
    """Return the process named in a NEWGEN notice, 0 where the kernel names none."""
    offset = _HEADER.size + _NFGENMSG_SIZE
    while offset + 8 <= len(notice):
        length, kind = struct.unpack_from("=HH", notice, offset)
        if kind == _NFTA_GEN_PROC_PID:
            return int(struct.unpack_from("!I", notice, offset + 4)[0])
        offset += max(4, (length + 3) & ~3)
    return 0
