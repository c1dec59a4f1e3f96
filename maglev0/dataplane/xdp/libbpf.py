"""libbpf in this process: loads, pins and attaches BPF programs and changes their maps.

The interface is that of libbpf 1.0 and later. libbpf's own messages carry the kernel's reason where
the error number does not, and become part of the error.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from maglev0.errors import DataplaneError, UnavailableError

_LIBRARY = "libbpf.so.1"
_MESSAGE_BYTES = 512
# what libbpf puts before the kernel's words after an error number
_KERNEL_SAYS = "Kernel error message:"
_HAS_FRAGS = 1 << 5  # BPF_F_XDP_HAS_FRAGS of linux/bpf.h
_BPF_XDP = 37  # enum bpf_attach_type
_INFO_BYTES = 256  # more than struct bpf_link_info has; the kernel fills what it knows
_LINK_INFO = struct.Struct("=16xI")  # of it: xdp.ifindex
_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)

GENERIC = 1 << 1  # XDP_FLAGS_SKB_MODE of linux/if_link.h
NATIVE = 1 << 2  # XDP_FLAGS_DRV_MODE


_MODES = {1: NATIVE, 2: GENERIC}  # XDP_ATTACHED_DRV, XDP_ATTACHED_SKB


class BpfError(DataplaneError):
    """The kernel or libbpf refused; `number` is the errno."""

    def __init__(self, doing: str, number: int, hint: str = "") -> None:
        super().__init__(f"{doing}: {hint or os.strerror(number).lower()}")
        self.number = number


class _LinkOptions(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("flags", ctypes.c_uint32),
        ("iter_info", ctypes.c_void_p),
        ("iter_info_len", ctypes.c_uint32),
    )


class _QueryOptions(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("prog_id", ctypes.c_uint32),
        ("drv_prog_id", ctypes.c_uint32),
        ("hw_prog_id", ctypes.c_uint32),
        ("skb_prog_id", ctypes.c_uint32),
        ("attach_mode", ctypes.c_uint8),
    )


class _BatchOptions(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("elem_flags", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    )


class Bpf:
    """The library; everything concerns the network namespace of the calling thread.

    Not safe for use from two threads.
    """

    def __init__(self) -> None:
        self._library, self._said, _print = _loaded()

    def install(self, elf: bytes, program: str, maps: tuple[str, ...], place: Path) -> None:
        """Load a program and its maps, and pin each by its name in the directory `place`.

        Where the kernel knows that (Linux 5.18 and later), the program is loaded as one that
        handles frames in pieces, as jumbo frames are.
        """
        try:
            self._install(elf, program, maps, place, _HAS_FRAGS)
        except BpfError:
            self._install(elf, program, maps, place, 0)

    def _install(
        self, elf: bytes, program: str, maps: tuple[str, ...], place: Path, flags: int
    ) -> None:
        library, doing = self._library, "loading the XDP program"
        opened = self._pointer(doing, library.bpf_object__open_mem, elf, len(elf), None)
        try:
            loaded = self._pointer(
                doing, library.bpf_object__find_program_by_name, opened, program.encode()
            )
            library.bpf_program__set_flags(loaded, flags)
            self._call(doing, library.bpf_object__load, opened)
            for name in maps:
                self.pin(
                    self._call(
                        doing, library.bpf_object__find_map_fd_by_name, opened, name.encode()
                    ),
                    place / name,
                )
            self.pin(self._call(doing, library.bpf_program__fd, loaded), place / program)
        finally:
            library.bpf_object__close(opened)

    def pin(self, descriptor: int, path: Path) -> None:
        """Give a program or a map a name in a BPF file system, which keeps it alive.

        What had that name before is replaced.
        """
        path.unlink(missing_ok=True)
        self._call(f"pinning {path}", self._library.bpf_obj_pin, descriptor, os.fsencode(path))

    def get(self, path: Path) -> int:
        """Return a descriptor of what is pinned there."""
        return self._call(f"opening {path}", self._library.bpf_obj_get, os.fsencode(path))

    @contextmanager
    def opened(self, path: Path) -> Iterator[int]:
        """Yield such a descriptor, and close it when the block ends."""
        descriptor = self.get(path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def attach(self, index: int, program: Path, flags: int, link: Path) -> None:
        """Attach the pinned program to the interface of that index, and pin the link.

        `flags` say how. The attachment stays and goes with the pinned link.
        """
        with self.opened(program) as descriptor:
            options = _LinkOptions(sz=ctypes.sizeof(_LinkOptions), flags=flags)
            call = self._library.bpf_link_create
            attached = self._call(
                "attaching XDP", call, descriptor, index, _BPF_XDP, ctypes.byref(options)
            )
        try:
            self.pin(attached, link)
        finally:
            os.close(attached)

    def replace(self, link: Path, program: Path) -> None:
        """Let a pinned link carry another pinned program, without missing a packet."""
        with self.opened(link) as attached, self.opened(program) as descriptor:
            self._call(
                "replacing the XDP program",
                self._library.bpf_link_update,
                attached,
                descriptor,
                None,
            )

    def detach(self, link: Path) -> None:
        """Detach what a pinned link attached, at once.

        The pin and other processes' descriptors may live on.
        """
        with self.opened(link) as attached:
            self._call("detaching XDP", self._library.bpf_link_detach, attached)

    def interface_of(self, link: Path) -> int:
        """Return the index of the interface that a pinned link is attached to.

        0 when there is none, or when the interface is gone.
        """
        if not link.exists():
            return 0
        with self.opened(link) as descriptor:
            information, size = (
                ctypes.create_string_buffer(_INFO_BYTES),
                ctypes.c_uint32(_INFO_BYTES),
            )
            self._call(
                f"asking for {link}",
                self._library.bpf_obj_get_info_by_fd,
                descriptor,
                information,
                ctypes.byref(size),
            )
            return int(_LINK_INFO.unpack_from(information.raw)[0])

    def mode(self, index: int) -> int:
        """Return how the interface's program is attached: NATIVE, GENERIC, or 0 otherwise."""
        options = _QueryOptions(sz=ctypes.sizeof(_QueryOptions))
        self._call(
            f"asking for XDP on interface {index}",
            self._library.bpf_xdp_query,
            index,
            0,
            ctypes.byref(options),
        )
        return _MODES.get(options.attach_mode, 0)

    def put(self, table: int, key: bytes, value: bytes) -> None:
        """Set one element of a map."""
        self._call(
            "changing a BPF map",
            self._library.bpf_map_update_elem,
            table,
            key,
            value,
            ctypes.c_uint64(0),
        )

    def put_all(self, table: int, keys: bytes, values: bytes, count: int) -> None:
        """Set `count` elements of a map in one call (Linux 5.6 and later)."""
        options, done = _BatchOptions(sz=ctypes.sizeof(_BatchOptions)), ctypes.c_uint32(count)
        if count:
            call = self._library.bpf_map_update_batch
            self._call(
                "changing a BPF map",
                call,
                table,
                keys,
                values,
                ctypes.byref(done),
                ctypes.byref(options),
            )

    def take_out(self, table: int, key: bytes) -> None:
        """Delete an element of a map; it must exist."""
        self._call("changing a BPF map", self._library.bpf_map_delete_elem, table, key)

    def look_up(self, table: int, key: bytes, size: int) -> bytes:
        """Return the value of an element; it must exist.

        `size` is what the kernel gives, for all processors if each has a value.
        """
        value = ctypes.create_string_buffer(size)
        self._call("reading a BPF map", self._library.bpf_map_lookup_elem, table, key, value)
        return value.raw

    def run(self, program: int, options: ctypes.Structure) -> None:
        """Run a program by BPF_PROG_TEST_RUN, as the library's `struct bpf_test_run_opts` says.

        The results are in that struct, too.
        """
        self._call(
            "running a BPF program",
            self._library.bpf_prog_test_run_opts,
            program,
            ctypes.byref(options),
        )

    def keys(self, table: int, size: int, most: int) -> list[bytes]:
        """Return the keys of a map that has at most `most` elements."""
        found: list[bytes] = []
        after, key = None, ctypes.create_string_buffer(size)
        while len(found) < most and self._library.bpf_map_get_next_key(table, after, key) == 0:
            found.append(key.raw)
            after = key.raw
        return found

    @property
    def processors(self) -> int:
        """Return how many values an element has in a map with one for each processor."""
        return self._call("counting processors", self._library.libbpf_num_possible_cpus)

    def _call(self, doing: str, function: Callable[..., int], *arguments: Any) -> int:
        self._said.clear()
        result = function(*arguments)
        if result < 0:
            raise self._error(doing, -result if result != -1 else ctypes.get_errno())
        return result

    def _pointer(self, doing: str, function: Callable[..., int | None], *arguments: Any) -> int:
        self._said.clear()
        result = function(*arguments)
        if not result:
            raise self._error(doing, ctypes.get_errno())
        return result

    def _error(self, doing: str, number: int) -> BpfError:
        kernel = [
            said.partition(_KERNEL_SAYS)[2].strip() for said in self._said if _KERNEL_SAYS in said
        ]
        return BpfError(doing, number, kernel[-1] if kernel else "")


class _Loaded(NamedTuple):
    """The library, its messages since they were last emptied, and their callback.

    The callback must live as long as the library does.
    """

    library: ctypes.CDLL
    said: list[str]
    print: Any


@cache
def _loaded() -> _Loaded:
    try:
        library = ctypes.CDLL(_LIBRARY, use_errno=True)
    except OSError as error:
        raise UnavailableError(f"{_LIBRARY} is missing; apt install libbpf1") from error
    said: list[str] = []

    def hear(_level: int, form: bytes, values: Any) -> int:
        buffer = ctypes.create_string_buffer(_MESSAGE_BYTES)
        ctypes.CDLL(None).vsnprintf(
            buffer, ctypes.c_size_t(_MESSAGE_BYTES), form, ctypes.c_void_p(values)
        )
        said.append(buffer.value.decode(errors="replace").strip())
        return 0

    loaded = _Loaded(library, said, _PRINT(hear))
    _declare(library)
    library.libbpf_set_print(loaded.print)
    return loaded


def _declare(library: ctypes.CDLL) -> None:
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    library.libbpf_set_print.argtypes = [_PRINT]
    library.libbpf_set_print.restype = pointer
    for name, arguments, result in (
        ("bpf_object__open_mem", [text, ctypes.c_size_t, pointer], pointer),
        ("bpf_object__find_program_by_name", [pointer, text], pointer),
        ("bpf_program__set_flags", [pointer, ctypes.c_uint32], ctypes.c_int),
        ("bpf_object__load", [pointer], ctypes.c_int),
        ("bpf_object__find_map_fd_by_name", [pointer, text], ctypes.c_int),
        ("bpf_program__fd", [pointer], ctypes.c_int),
        ("bpf_object__close", [pointer], None),
        ("bpf_obj_pin", [ctypes.c_int, text], ctypes.c_int),
        ("bpf_obj_get", [text], ctypes.c_int),
        ("bpf_link_create", [ctypes.c_int, ctypes.c_int, ctypes.c_int, pointer], ctypes.c_int),
        ("bpf_link_update", [ctypes.c_int, ctypes.c_int, pointer], ctypes.c_int),
    ):
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
