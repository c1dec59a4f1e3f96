"""The rules of one service in the kernel.

They are installed as a whole, and compared with what was there right after that.
"""

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

_NOBODYS = IPv4Address("192.0.2.1")  # a trial must not collide with the tables of our own VIP
_FAMILIES = ("inet", "arp")


class Rules:
    """Tables, chains and rules, without the elements of sets and maps."""

    def __init__(self, tables: Tables, service: Service, *, counted: bool = False) -> None:
        """Set up for one service; `counted` makes the early stage count what it refuses."""
        self._tables = tables
        self._counted = counted
        self._service = service
        self._nft = Nft()
        self._mac_added = False
        self._can_ingress: bool | None = None
        self._hook = Hook.PREROUTING
        self._structure: tuple[bytes, ...] = ()

    def choose_hook(self, *, shared: bool) -> None:
        """Choose where the early stage costs least.

        `shared` says that another device gets packets from the interface; these must not be dropped
        at ingress.
        """
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
                "early stage in prerouting: this kernel refuses it at the interface's ingress, "
                "where it costs less (%s)",
                error,
            )
            return False
        return True

    def note(self, *, mac_added: bool) -> None:
        """Set whether the cluster MAC on the interface is ours to remove.

        The rules carry this note.
        """
        self._mac_added = mac_added

    def noted(self) -> bool:
        """Whether the rules in the kernel say that a daemon added the cluster MAC."""
        return ruleset.MAC_NOTE in self._tables.reader.objects("inet").sets

    def standing(self) -> bool:
        """Whether any rules of ours are in the kernel, complete or not, of any version."""
        return bool(self._tables.reader.structure("inet"))

    def in_force(self) -> bool:
        """Whether rules made for this service judge packets, even if others changed them since."""
        return self._fingerprint in self._tables.reader.structure("inet")

    @property
    def _fingerprint(self) -> bytes:
        return ruleset.fingerprint(self._service, self._hook).encode()

    def prepare(self) -> None:
        """Install rules that judge nothing yet, so that connection tracking begins."""
        self._replace(ruleset.prepare(self._service, self._hook, mac_added=self._mac_added))

    def complete(self) -> None:
        """Complete our rules where they exist, changed or not.

        Their sets and maps keep their elements.
        """
        self._write(self._commands())
        self._remember()

    def install(self) -> None:
        """Install the rules with empty sets and maps, replacing what is there.

        It is one transaction, so some rules judge at all times.
        """
        self._replace(self._commands())
        self._remember()

    def refused_early(self) -> Count | None:
        """Return what the early stage refused since its rules were written.

        None when it does not count.
        """
        return self._tables.reader.counted("early") if self._counted else None

    def changed(self) -> bool:
        """Whether the rules differ from what was installed, or are not where they should be."""
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
        # Without this, missing rules would be remembered as complete.
        if not all(structure):
            raise DataplaneError("installing nftables rules: another program removes them at once")
        self._structure = structure

    def _read(self) -> tuple[bytes, ...]:
        return tuple(self._tables.reader.structure(family) for family in _FAMILIES)
