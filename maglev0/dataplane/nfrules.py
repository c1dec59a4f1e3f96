"""The rules of one service in the kernel: put there as a whole, and compared with what stood there right behind that."""

from __future__ import annotations

from maglev0.dataplane import ruleset
from maglev0.dataplane.libnftables import Nft
from maglev0.dataplane.nfbatch import Tables
from maglev0.errors import DataplaneError
from maglev0.service import Service

_FAMILIES = ("ip", "arp")


class Rules:
    """Tables, chains and rules, without the elements of sets and maps."""

    def __init__(self, tables: Tables, service: Service) -> None:
        self._tables = tables
        self._service = service
        self._nft = Nft()
        self._mac_added = False
        self._structure: tuple[bytes, ...] = ()

    def note(self, *, mac_added: bool) -> None:
        """Write down, beside the rules, whether the cluster MAC on the interface is ours to remove."""
        self._mac_added = mac_added

    def noted(self) -> bool:
        """Whether the rules that stand there say that the cluster MAC was put up by a daemon."""
        return ruleset.MAC_NOTE in self._tables.dump.objects("ip").sets

    def standing(self) -> bool:
        """Whether any rules of ours stand there, these or others, all of them or some."""
        return bool(self._tables.dump.structure("ip"))

    def in_force(self) -> bool:
        """Whether rules made for this very service judge packets there, whatever others did to them since."""
        return ruleset.fingerprint(self._service).encode() in self._tables.dump.structure("ip")

    def prepare(self) -> None:
        """Put up rules that judge nothing yet, so that connection tracking begins."""
        self._replace(ruleset.prepare(self._service, mac_added=self._mac_added))

    def complete(self) -> None:
        """Put the rules in force where these stand already, tampered with or not; what their sets and maps hold survives."""
        self._write(ruleset.install(self._service, mac_added=self._mac_added))
        self._remember()

    def install(self) -> None:
        """Put the rules in force, with empty sets and maps, whatever stands there; in one transaction, so that something judges all the time."""
        self._replace(ruleset.install(self._service, mac_added=self._mac_added))
        self._remember()

    def changed(self) -> bool:
        """Whether they are not what was put there any more."""
        return self._read() != self._structure

    def _replace(self, commands: str) -> None:
        clear = [ruleset.clear(self._service.vip, family, *self._tables.dump.objects(family)) for family in _FAMILIES]
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
        return tuple(self._tables.dump.structure(family) for family in _FAMILIES)
