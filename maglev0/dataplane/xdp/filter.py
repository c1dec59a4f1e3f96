"""The early stage before the kernel's stack, for one service: kept in step with the nftables rules that judge behind it.

Whatever goes wrong here is told in one line, and nftables alone carries on: without it a foreign packet costs more, and nothing else changes.
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
    """Where the BPF file system is mounted; the lab's machines, which share one kernel, have one each."""
    return Path(os.environ.get("MAGLEV0_BPFFS", BPF_FILE_SYSTEM))


def remove_leftovers(vip: IPv4Address) -> None:
    """No program that a killed daemon left judges for the VIP any more. `DataplaneError` where one may, and cannot be undone."""
    if any_left(file_system()):
        Pins(Bpf(), file_system()).forget(vip)


class XdpFilter:
    """The XDP program's part for one service. `open` once the rules stand, `close` before they go."""

    def __init__(self, service: Service, wish: Xdp) -> None:
        self._service = service
        self._wish = wish
        self._bpf: Bpf | None = None
        self._pins: Pins | None = None
        self._shared: AttachedProgram | None = None
        self._bits = maps.Bits()
        self._index = 0  # where it was tried last

    def forget(self) -> None:
        """Have no program judge for the service that a former daemon may have left. `DataplaneError` where one does and that cannot be undone."""
        remove_leftovers(self._service.vip)

    def open(self, index: int, stacked: str | None, numbers: Collection[int]) -> None:
        """Refuse early, on the interface of that index, what falls in none of these buckets, the numbers that nftables admits.

        `stacked` names a device that takes packets from the interface before, or beside, our rules: what it would take must not be dropped.
        Raises `DataplaneError` only where a program that a former daemon left would go on judging by what is over.
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
                "XDP on %s: %s, refuses foreign packets before the stack",
                self._service.interface,
                self.mode,
            )

    def admit(self, numbers: Collection[int]) -> None:
        """Pass these buckets too; called before nftables admits them."""
        self._change(self._bits.added(numbers))

    def refuse(self, numbers: Collection[int]) -> None:
        """Pass these buckets no more; called when nftables has ceased to admit them."""
        self._change(self._bits.removed(numbers))

    def repair(self, index: int, stacked: str | None, numbers: Collection[int]) -> bool:
        """See that the program is where it should be; whether it had to be brought back. What was refused once is not tried again there."""
        if self._shared is None:
            if index != self._index:
                self.open(index, stacked, numbers)
            return False
        if index == self._index and stacked is None and self._stands(self._shared):
            return False
        self.open(index, stacked, numbers)
        return self._shared is not None

    def close(self) -> None:
        """Judge no more for this service."""
        self._let_go()
        with suppress(DataplaneError):
            self.forget()

    @property
    def mode(self) -> str:
        """How the program runs: native, generic, or "off" where it does not."""
        return "off" if self._shared is None else MODES.get(self._shared.mode, "another way")

    def counters(self) -> maps.XdpCounters | None:
        """What arrived for the VIP since the program was attached; None where it is not."""
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
            "no XDP on %s, nftables alone refuses foreign packets: %s",
            self._service.interface,
            reason,
        )


def _reason(error: DataplaneError) -> str:
    rights = isinstance(error, BpfError) and error.number == 1  # EPERM
    return f"{error} (it needs CAP_BPF and CAP_NET_ADMIN)" if rights else str(error)
