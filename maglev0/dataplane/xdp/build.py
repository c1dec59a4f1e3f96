"""Compiles the XDP program when maglev0 is built.

setuptools loads this file by its path, before the package can be imported. Where clang or libbpf's
headers are missing, the package is built without the program and says so when it runs.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools.command.build_py import build_py

_PLACE = Path("maglev0/dataplane/xdp")
_SOURCE, _OBJECT = "early.bpf.c", "early.bpf.o"
_COMPILE = ("clang", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf")


class BuildWithXdp(build_py):
    """Copies the Python files, and puts the compiled program next to them."""

    def run(self) -> None:
        """See `build_py.run`; an editable installation gets the program next to its source."""
        super().run()
        place = Path() if self.editable_mode else Path(self.build_lib)
        try:
            compile_bpf(_PLACE / _SOURCE, place / _PLACE / _OBJECT)
        except OSError as error:
            sys.stderr.write(
                f"warning: built without the XDP program: {error}; apt install clang libbpf-dev\n"
            )


def compile_bpf(source: Path, target: Path) -> None:
    """Compile C for the kernel's virtual machine, in this machine's byte order.

    OSError with the reason when that fails.
    """
    architecture = sysconfig.get_config_var(
        "MULTIARCH"
    )  # where Debian keeps the headers that linux/types.h includes
    include = [f"-I/usr/include/{architecture}"] if architecture else []
    target.parent.mkdir(parents=True, exist_ok=True)
    result = subprocess.run(
        [*_COMPILE, *include, "-c", str(source), "-o", str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise OSError(result.stderr.strip().partition("\n")[0])
