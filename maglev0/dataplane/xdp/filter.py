"""The XDP filter of one service, kept in step with the nftables rules that judge after it.

Every failure here is logged in one line, and nftables alone goes on: without the filter a foreign
packet costs more, and nothing else changes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

from maglev0.core.service import Service, Xdp
from maglev0.dataplane.xdp import libbpf, maps
from maglev0.dataplane.xdp.libbpf import Bpf, BpfError
from maglev0.dataplane.xdp.pins import BPF_FILE_SYSTEM, AttachedProgram, Pins, any_left
from maglev0.errors import DataplaneError

log = logging.getLogger(__name__)

_FLAGS = {Xdp.AUTO: libbpf.NATIVE, Xdp.NATIVE: libbpf.NATIVE, Xdp.GENERIC: libbpf.GENERIC}
MODES = {libbpf.NATIVE: "native", libbpf.GENERIC: "generic"}


def file_system() -> Path:
    """Return where the BPF file system is mounted.

    Each machine of the lab has its own, in one kernel.
    """
    return Path(os.environ.get("MAGLEV0_BPFFS", BPF_FILE_SYSTEM))


def remove_leftovers(vip: IPv4Address) -> None:
    """Stop any program that a killed daemon left from judging for the VIP.

    DataplaneError when one may still judge and cannot be stopped.
    """
    if any_left(file_system()):
        Pins(Bpf(), file_system()).forget(vip)


class XdpFilter:
    """The XDP filter of one service.

    Call `open` when the rules are in place, and `close` before they go.
    """

    def __init__(self, service: Service, wish: Xdp) -> None:
        self._service = service
        self._wish = wish
        self._bpf: Bpf | None = None
        self._pins: Pins | None = None
        self._shared: AttachedProgram | None = None
        self._bits = maps.Bits()
        self._index = 0  # where it was tried last

    def forget(self) -> None:
        """Stop any program that an earlier daemon left from judging for the service.

        DataplaneError when one judges and cannot be stopped.
        """
        remove_leftovers(self._service.vip)

    def open(self, index: int, stacked: str | None, numbers: Collection[int]) -> None:
        """Refuse early, on the interface of that index, what hashes to none of these buckets.

        The buckets are the numbers that nftables admits. `stacked` names a device that takes
        packets from the interface before or beside our rules: its packets must not be dropped.
        Raises `DataplaneError` only when a program of an earlier daemon would go on judging by old
        buckets.
        """
        self._index = index
        self._let_go()
        if self._wish is Xdp.OFF or stacked is not None:
            self.forget()
            if stacked is not None and self._wish is not Xdp.OFF:
                self._say_off(
                    f"{stacked} shares the interface's packets, which our rules do not judge there"
                )
            return
        try:
            self._bpf = self._bpf or Bpf()
            self._pins = self._pins or Pins(self._bpf, file_system())
            self._shared = self._pins.join(
                self._service, index, _FLAGS[self._wish], lambda shared: self._fill(shared, numbers)
            )
        except DataplaneError as error:
            self.forget()
            self._say_off(_reason(error))
        else:
            log.info(
                "XDP filter on %s (%s): refuses foreign packets before the kernel's stack",
                self._service.interface,
                self.mode,
            )

    def admit(self, numbers: Collection[int]) -> None:
        """Pass these buckets too; called before nftables admits them."""
        self._change(self._bits.added(numbers))

    def refuse(self, numbers: Collection[int]) -> None:
        """Pass these buckets no more; called when nftables has stopped admitting them."""
        self._change(self._bits.removed(numbers))

    def repair(self, index: int, stacked: str | None, numbers: Collection[int]) -> bool:
        """Put the program where it should be; return whether it had to be restored.

        What was refused once is not tried again on that interface.
        """
        if self._shared is None:
            if index != self._index:
                self.open(index, stacked, numbers)
            return False
        if index == self._index and stacked is None and self._stands(self._shared):
            return False
        self.open(index, stacked, numbers)
        return self._shared is not None

    def close(self) -> None:
        """Stop judging for this service."""
        self._let_go()
        with suppress(DataplaneError):
            self.forget()

    @property
    def mode(self) -> str:
        """How the program runs: native, generic, or "off" when it does not."""
        return "off" if self._shared is None else MODES.get(self._shared.mode, "another way")

    def counters(self) -> maps.XdpCounters | None:
        """Return what arrived for the VIP since the program was attached; None when it is not."""
        if self._shared is None or self._bpf is None:
            return None
        size = maps.COUNTER_SIZE * self._bpf.processors
        passed, dropped = (
            self._bpf.look_up(self._shared.counters, key, size)
            for key in maps.counter_keys(self._shared.slot)
        )
        return maps.XdpCounters(maps.counted(passed), maps.counted(dropped))

    def _fill(self, shared: AttachedProgram, numbers: Collection[int]) -> None:
        words, update = maps.whole(shared.slot, numbers, self._service.total_nodes)
        if self._bpf is not None:
            self._bpf.put_all(shared.admitted, *update, len(words))
        self._bits = maps.Bits()
        self._bits.take(words)

    def _change(self, words: Mapping[int, int]) -> None:
        if self._shared is None or self._bpf is None:
            return
        try:
            self._bpf.put_all(
                self._shared.admitted, *maps.batch(self._shared.slot, words), len(words)
            )
        except BpfError as error:
            self._let_go()
            self.forget()
            self._say_off(_reason(error))
        else:
            self._bits.take(words)

    def _stands(self, shared: AttachedProgram) -> bool:
        try:
            return self._pins is not None and self._pins.stands(shared)
        except BpfError:
            return False

    def _let_go(self) -> None:
        if self._shared is not None:
            self._shared.close()
        self._shared = None

    def _say_off(self, reason: str) -> None:
        level = logging.INFO if self._wish is Xdp.AUTO else logging.WARNING
        log.log(
            level,
            "no XDP filter on %s, nftables alone refuses foreign packets: %s",
            self._service.interface,
            reason,
        )


def _reason(error: DataplaneError) -> str:
    rights = isinstance(error, BpfError) and error.number == 1  # EPERM
    return f"{error} (it needs CAP_BPF and CAP_NET_ADMIN)" if rights else str(error)
