"""The rules of one service in the kernel: put there as a whole, and compared with what stood there right behind that."""

from __future__ import annotations

import logging
from dataclasses import replace
from ipaddress import IPv4Address

from maglev0.core.service import Service
from maglev0.dataplane.nftables import ruleset
from maglev0.dataplane.nftables.libnftables import Nft, NftError
from maglev0.dataplane.nftables.ruleset import Hook
from maglev0.dataplane.nftables.tables import Tables
from maglev0.errors import DataplaneError
from maglev0.protocol.ports.readings import Count

log = logging.getLogger(__name__)

_NOBODYS = IPv4Address(
    "192.0.2.1"
)  # what stands for our own VIP must not stand in the way of what is only tried
_FAMILIES = ("inet", "arp")


class Rules:
    """Tables, chains and rules, without the elements of sets and maps."""

    def __init__(self, tables: Tables, service: Service, *, counted: bool = False) -> None:
        """`counted` has the early stage count what it refuses."""
        self._tables = tables
        self._counted = counted
        self._service = service
        self._nft = Nft()
        self._mac_added = False
        self._can_ingress: bool | None = None
        self._hook = Hook.PREROUTING
        self._structure: tuple[bytes, ...] = ()

    def choose_hook(self, *, shared: bool) -> None:
        """Let the early stage stand where it costs least; `shared` says that others have packets from the interface, too, which must be there."""
        if self._can_ingress is None:
            self._can_ingress = self._takes(
                ruleset.probe(replace(self._service, vip=_NOBODYS), Hook.INGRESS)
            )
        self._hook = Hook.INGRESS if self._can_ingress and not shared else Hook.PREROUTING

    def _takes(self, commands: str) -> bool:
        try:
            self._nft.check(commands)
        except NftError as error:
            log.info(
                "the early stage stands in prerouting: at an interface's ingress, where it costs less, this kernel refuses it (%s)",
                error,
            )
            return False
        return True

    def note(self, *, mac_added: bool) -> None:
        """Write down, beside the rules, whether the cluster MAC on the interface is ours to remove."""
        self._mac_added = mac_added

    def noted(self) -> bool:
        """Whether the rules that stand there say that the cluster MAC was put up by a daemon."""
        return ruleset.MAC_NOTE in self._tables.reader.objects("inet").sets

    def standing(self) -> bool:
        """Whether any rules of ours stand there, these or others, all of them or some."""
        return bool(self._tables.reader.structure("inet"))

    def in_force(self) -> bool:
        """Whether rules made for this very service judge packets there, whatever others did to them since."""
        return self._fingerprint in self._tables.reader.structure("inet")

    @property
    def _fingerprint(self) -> bytes:
        return ruleset.fingerprint(self._service, self._hook).encode()

    def prepare(self) -> None:
        """Put up rules that judge nothing yet, so that connection tracking begins."""
        self._replace(ruleset.prepare(self._service, self._hook, mac_added=self._mac_added))

    def complete(self) -> None:
        """Put the rules in force where these stand already, tampered with or not; what their sets and maps hold survives."""
        self._write(self._commands())
        self._remember()

    def install(self) -> None:
        """Put the rules in force, with empty sets and maps, whatever stands there; in one transaction, so that something judges all the time."""
        self._replace(self._commands())
        self._remember()

    def refused_early(self) -> Count | None:
        """What the early stage refused since its rules were written; `None` where it does not count."""
        return self._tables.reader.counted("early") if self._counted else None

    def changed(self) -> bool:
        """Whether they are not what was put there any more, or not where they should be."""
        structure = self._read()
        return structure != self._structure or self._fingerprint not in structure[0]

    def _commands(self) -> str:
        return ruleset.install(
            self._service, self._hook, mac_added=self._mac_added, counted=self._counted
        )

    def _replace(self, commands: str) -> None:
        clear = [
            ruleset.clear(self._service.vip, family, *self._tables.reader.objects(family))
            for family in _FAMILIES
        ]
        self._write("".join(clear) + commands)

    def _write(self, commands: str) -> None:
        self._tables.disown()  # libnftables writes through a socket of its own
        self._tables.create()
        self._nft.run(commands)
        self._tables.own()

    def _remember(self) -> None:
        structure = self._read()
        # Remembered without a table, the rules would count as complete from then on while there are none.
        if not all(structure):
            raise DataplaneError("installing nftables rules: another program removes them at once")
        self._structure = structure

    def _read(self) -> tuple[bytes, ...]:
        return tuple(self._tables.reader.structure(family) for family in _FAMILIES)
