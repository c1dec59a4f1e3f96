"""Which XDP program of ours is attached to which interface, and which VIPs it serves.

All daemons of this network namespace share the programs. A program, its maps and the link that
attaches it are pinned in a directory of their own in the BPF file system. So they outlive the
daemon, and a daemon finds them again with CAP_BPF and CAP_NET_ADMIN only; nothing stays attached
that is not pinned. The directory's name contains the network namespace, the interface and a digest
of the program: interfaces of one index exist in every namespace, and another version's maps may
mean something else. What is pinned but attached nowhere is removed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from maglev0.core.service import Service
from maglev0.dataplane.xdp import maps
from maglev0.dataplane.xdp.libbpf import Bpf, BpfError
from maglev0.errors import DataplaneError, UnavailableError

BPF_FILE_SYSTEM = Path("/sys/fs/bpf")
PROGRAM = "maglev0_early"
MAPS = ("vips", "admitted", "counters")
LINK = "link"
_OBJECT = Path(__file__).parent / "early.bpf.o"
_LOCK_ATTEMPTS = 100
# names of directories here have no dots, which that file system refuses
_NAME = re.compile(r"(\d+)_(\d+)_([0-9a-f]{16})")
_NETNS = Path("/proc/thread-self/ns/net")


class PinnedProgram(NamedTuple):
    """Where one program of ours is pinned."""

    path: Path
    ifindex: int
    digest: str

    @property
    def program(self) -> Path:
        """The pinned program."""
        return self.path / PROGRAM

    @property
    def link(self) -> Path:
        """The pinned link."""
        return self.path / LINK


class AttachedProgram(NamedTuple):
    """A program that serves a VIP: its interface, mode and slot, and descriptors of its maps."""

    place: PinnedProgram
    mode: int
    slot: int
    vips: int
    admitted: int
    counters: int

    def close(self) -> None:
        """Close the descriptors; everything stays."""
        for descriptor in (self.vips, self.admitted, self.counters):
            os.close(descriptor)


def any_left(file_system: Path) -> bool:
    """Whether anything of ours is pinned for this network namespace; needs no libbpf."""
    try:
        return bool(places(file_system / "maglev0"))
    except OSError as error:
        raise UnavailableError(f"{error.filename}: {(error.strerror or '').lower()}") from error


class Pins:
    """The pinned programs of this network namespace.

    Every change is made under a lock that all daemons of this machine share.
    """

    def __init__(self, bpf: Bpf, file_system: Path) -> None:
        self._bpf = bpf
        self._file_system = file_system
        self._root = file_system / "maglev0"

    def join(
        self, service: Service, index: int, flags: int, fill: Callable[[AttachedProgram], None]
    ) -> AttachedProgram:
        """Let the interface's program serve the VIP; attach it as `flags` say where there is none.

        `fill` writes the VIP's bits before the first packet is judged by them. Raises
        `UnavailableError` or `BpfError` when a program cannot serve here: a foreign program, a
        kernel or driver that refuses, missing rights, no BPF file system. Then `forget` undoes what
        was done for the VIP.
        """
        elf = _elf()
        digest = hashlib.blake2b(elf, digest_size=8).hexdigest()
        with self._locked():
            self._forget(service.vip, keep=index)
            place = self._standing(index, digest, service.vip)
            if place is None or place.digest != digest:
                place = self._install(elf, digest, index, flags, place)
            return self._serve(service, place, fill)

    def forget(self, vip: IPv4Address) -> None:
        """Stop all our programs from serving the VIP; detach one that serves no other.

        Nothing happens when there is none.
        """
        with self._locked():
            self._forget(vip)

    def stands(self, shared: AttachedProgram) -> bool:
        """Whether the program is still attached."""
        return self._stands(shared.place)

    def _stands(self, place: PinnedProgram) -> bool:
        return self._bpf.interface_of(place.link) == place.ifindex

    def _standing(self, index: int, digest: str, vip: IPv4Address) -> PinnedProgram | None:
        """Return our program on the interface; remove programs that are attached nowhere.

        A program of another version counts only if it serves no other VIP.
        """
        found = None
        for place in places(self._root):
            if not self._stands(place):
                _remove(place)
            elif place.ifindex == index:
                found = place
        if found is not None and found.digest != digest and self._vips(found) - {vip.packed}:
            raise UnavailableError(
                "another version of maglev0 serves other addresses there; "
                "restart those daemons, too"
            )
        return found

    def _install(
        self, elf: bytes, digest: str, index: int, flags: int, former: PinnedProgram | None
    ) -> PinnedProgram:
        place = PinnedProgram(self._root / f"{_netns()}_{index}_{digest}", index, digest)
        place.path.mkdir(mode=0o700)
        try:
            self._bpf.install(elf, PROGRAM, MAPS, place.path)
            if former is None:
                self._bpf.attach(index, place.program, flags, place.link)
            else:
                former.link.rename(place.link)
                self._bpf.replace(place.link, place.program)
                _remove(former)
        except BpfError as error:
            _remove(place)
            if error.number in (errno.EBUSY, errno.EEXIST):
                raise UnavailableError("another XDP program is attached, and stays") from error
            raise
        return place

    def _serve(
        self, service: Service, place: PinnedProgram, fill: Callable[[AttachedProgram], None]
    ) -> AttachedProgram:
        descriptors = [self._bpf.get(place.path / name) for name in MAPS]
        try:
            return self._enter(service, place, descriptors, fill)
        except DataplaneError:
            for descriptor in descriptors:
                os.close(descriptor)
            raise

    def _enter(
        self,
        service: Service,
        place: PinnedProgram,
        descriptors: list[int],
        fill: Callable[[AttachedProgram], None],
    ) -> AttachedProgram:
        vips, admitted, counters = descriptors
        values = {key: self._bpf.look_up(vips, key, maps.VIP_SIZE) for key in self._keys(vips)}
        own = values.get(service.vip.packed)
        slot = (
            maps.free_slot([maps.slot_of(value) for value in values.values()])
            if own is None
            else maps.slot_of(own)
        )
        shared = AttachedProgram(
            place, self._bpf.mode(place.ifindex), slot, vips, admitted, counters
        )
        value = maps.vip_value(service, slot)
        if own is None:
            self._reset(shared)
        elif own != value:
            self._bpf.take_out(
                vips, service.vip.packed
            )  # hashed differently, its bits mean other buckets
        fill(shared)
        self._bpf.put(vips, service.vip.packed, value)
        return shared

    def _reset(self, shared: AttachedProgram) -> None:
        """Count from zero: the slot may have been another VIP's."""
        for key in maps.counter_keys(shared.slot):
            self._bpf.put(shared.counters, key, bytes(maps.COUNTER_SIZE * self._bpf.processors))

    def _forget(self, vip: IPv4Address, keep: int | None = None) -> None:
        for place in places(self._root):
            if place.ifindex == keep:
                continue
            if not self._stands(place):
                _remove(place)
                continue
            self._take_out(place, vip)
            if not self._vips(place):
                self._bpf.detach(place.link)
                _remove(place)

    def _take_out(self, place: PinnedProgram, vip: IPv4Address) -> None:
        with self._bpf.opened(place.path / "vips") as vips:
            if vip.packed in self._keys(vips):
                self._bpf.take_out(vips, vip.packed)

    def _vips(self, place: PinnedProgram) -> set[bytes]:
        with self._bpf.opened(place.path / "vips") as vips:
            return set(self._keys(vips))

    def _keys(self, vips: int) -> list[bytes]:
        return self._bpf.keys(vips, 4, maps.MAX_VIPS)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock, an flock on the directory; the last one to leave removes the directory."""
        if not _is_bpf_file_system(self._file_system):
            raise UnavailableError(
                f"no BPF file system on {self._file_system}; mount -t bpf bpf {self._file_system}"
            )
        lock = self._lock()
        try:
            yield
        except OSError as error:
            raise UnavailableError(
                f"{error.filename}: {(error.strerror or str(error)).lower()}"
            ) from error
        finally:
            with suppress(OSError):  # not empty: others are there
                self._root.rmdir()
            os.close(lock)

    def _lock(self) -> int:
        for _attempt in range(_LOCK_ATTEMPTS):
            try:
                self._root.mkdir(mode=0o700, exist_ok=True)
                lock = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise UnavailableError(f"{self._root}: {(error.strerror or '').lower()}") from error
            fcntl.flock(lock, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if self._root.stat().st_ino == os.fstat(lock).st_ino:
                    return lock
            os.close(lock)  # the one that held the lock removed the directory
        raise UnavailableError(f"{self._root} is made and removed all the time")


def _netns() -> int:
    return _NETNS.stat().st_ino


def places(root: Path) -> list[PinnedProgram]:
    """Return where programs of this network namespace are pinned; nothing without `root`."""
    try:
        paths = sorted(root.iterdir())
    except FileNotFoundError:
        return []
    matches = [(path, _NAME.fullmatch(path.name)) for path in paths]
    return [
        PinnedProgram(path, int(match[2]), match[3])
        for path, match in matches
        if match and int(match[1]) == _netns()
    ]


def _elf() -> bytes:
    try:
        return _OBJECT.read_bytes()
    except FileNotFoundError as error:
        raise UnavailableError(
            "this installation has no XDP program: clang was missing when it was built; "
            "apt install clang libbpf-dev"
        ) from error


def _is_bpf_file_system(path: Path) -> bool:
    return any(
        line.split()[1:3] == [str(path), "bpf"]
        for line in Path("/proc/thread-self/mounts").read_text().splitlines()
    )


def _remove(place: PinnedProgram) -> None:
    for name in (LINK, PROGRAM, *MAPS):
        (place.path / name).unlink(missing_ok=True)
    place.path.rmdir()
