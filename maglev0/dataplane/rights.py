"""The rights that a dataplane needs from the kernel."""

from __future__ import annotations

from pathlib import Path

from maglev0.errors import UnavailableError

_BITS = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}  # capabilities(7)


def require(dataplane: str) -> None:
    """Raise `UnavailableError` when this process may not change rules and addresses or send ARP."""
    status = Path("/proc/thread-self/status").read_text("ascii")
    effective = next(
        int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")
    )
    missing = [name for name, bit in _BITS.items() if not effective >> bit & 1]
    if missing:
        raise UnavailableError(f"{dataplane} needs {' and '.join(missing)}: run maglev0 as root")
