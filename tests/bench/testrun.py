"""BPF_PROG_TEST_RUN: one program over one frame, for its verdict, or over many live copies of it,
for its time.
"""

from __future__ import annotations

import ctypes
import struct
from typing import NamedTuple

from maglev0.dataplane.xdp.libbpf import Bpf

DROP, PASS = 1, 2  # XDP_…
_LIVE_FRAMES = 1 << 1  # BPF_F_TEST_XDP_LIVE_FRAMES
_CONTEXT = struct.Struct(
    "=6I"
)  # struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex


class _Options(ctypes.Structure):  # struct bpf_test_run_opts
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class Ran(NamedTuple):
    """The program's last verdict, and the kernel's own time for one run."""

    verdict: int
    duration_ns: int


def run(
    bpf: Bpf, program: int, frame: bytes, *, repeat: int = 1, live_on: int | None = None
) -> Ran:
    """Run it so many times.

    `live_on` is the index of the interface that what it passes enters the stack from.
    """
    data = ctypes.create_string_buffer(frame, len(frame))
    options = _Options(
        sz=ctypes.sizeof(_Options),
        data_in=ctypes.addressof(data),
        data_size_in=len(frame),
        repeat=repeat,
    )
    if live_on is not None:
        packed = _CONTEXT.pack(0, len(frame), 0, live_on, 0, 0)
        context = ctypes.create_string_buffer(packed, len(packed))
        options.ctx_in, options.ctx_size_in, options.flags = (
            ctypes.addressof(context),
            len(packed),
            _LIVE_FRAMES,
        )
    bpf.run(program, options)
    return Ran(options.retval, options.duration)
