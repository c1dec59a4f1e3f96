"""Debian 12's own kernel, which still has CLUSTERIP, unpacked in the checkout's cache.

Nothing is installed on the host.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "vm"
SUITE = "bookworm"
FALLBACK_MIRROR = "http://deb.debian.org/debian"
# A full match excludes -dbg, -unsigned, -rt and -cloud, whose names are longer.
IMAGE = re.compile(r"linux-image-(6\.1\.0-(\d+)-amd64)")
FETCH_TIMEOUT_S = 240.0


class KernelImage(NamedTuple):
    """An unpacked kernel: the image to boot.

    Its modules are in ../lib/modules, where virtme-ng looks for them.
    """

    vmlinuz: Path
    release: str


def kernel_image() -> KernelImage:
    """Return the newest 6.1 kernel of the suite.

    The first call fetches it, later calls read the cache. Raises RuntimeError with apt's message.
    """
    present = sorted(CACHE.glob("linux-image-*/boot/vmlinuz-*"))
    if not present:
        _fetch()
        present = sorted(CACHE.glob("linux-image-*/boot/vmlinuz-*"))
    return KernelImage(present[-1], present[-1].name.removeprefix("vmlinuz-"))


def _fetch() -> None:
    """Fetch and unpack the kernel.

    It is unpacked under another name first, so an interrupted fetch never looks complete.
    """
    apt = _private_apt()
    _run(*apt, "update")
    found = [
        match
        for match in map(
            IMAGE.fullmatch, _run("apt-cache", *apt[1:], "pkgnames", "linux-image-6.1.0-").split()
        )
        if match
    ]
    if not found:
        raise RuntimeError(
            f"no linux-image-6.1.0-*-amd64 in {SUITE}: "
            "check that the mirror in this machine's apt sources is a Debian mirror"
        )
    newest = max(found, key=lambda match: int(match[2]))
    _run(*apt, "download", newest[0])
    (archive,) = CACHE.glob(f"{newest[0]}_*.deb")
    unpacked = CACHE / "unpacking"
    shutil.rmtree(unpacked, ignore_errors=True)
    _run("dpkg", "-x", str(archive), str(unpacked))
    _run("depmod", "-b", str(unpacked), newest[1])
    unpacked.rename(CACHE / newest[0])
    archive.unlink()


def _private_apt() -> list[str]:
    """Return an apt-get command with package lists of its own.

    It sees Debian 12's packages on any release, and leaves the host's lists unchanged.
    """
    for folder in ("lists/partial", "archives/partial"):
        (CACHE / folder).mkdir(parents=True, exist_ok=True)
    sources = CACHE / "sources.list"
    sources.write_text(
        f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {_mirror()} {SUITE} main\n"
    )
    options = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": CACHE / "lists",
        "Dir::Cache": CACHE,
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "root",  # apt's own user may have no access to the checkout
        "Acquire::Languages": "none",
    }
    return [
        "apt-get",
        "-q",
        *(word for name, value in options.items() for word in ("-o", f"{name}={value}")),
    ]


def _mirror() -> str:
    """Return the Debian mirror that the host already uses: it may reach no other."""
    for path in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        if path.is_file() and (
            match := re.search(
                r"^(?:deb|URIs:).*?(https?://\S+/debian)/?(?:\s|$)", path.read_text(), re.MULTILINE
            )
        ):
            return match[1]
    return FALLBACK_MIRROR


def _run(*command: str) -> str:
    done = subprocess.run(
        command, cwd=CACHE, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} {command[-1]}: {done.stderr.strip()}")
    return done.stdout
