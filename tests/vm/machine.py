"""A virtual machine that boots an older kernel on the host's file tree.

It has the same checkout and the same virtual environment, read only.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from tests.vm.kernel_image import ROOT

if TYPE_CHECKING:
    from tests.vm.kernel_image import KernelImage

PYTHON = sys.executable
PROGRAMS = Path(sys.prefix, "bin")  # pip installs virtme-ng here
KILL_TIMEOUT_S = 10.0
IN_MACHINE = "MAGLEV0_IN_MACHINE"  # set for every process inside the machine


def run_in_machine(image: KernelImage, command: list[str], results: Path, timeout_s: float) -> str:
    """Boot, run `command` as root in the checkout, shut down; return the console's text.

    The text includes kernel messages. The machine keeps only what it writes to the folder
    `results`. It runs without KVM: everything is emulated, some ten times slower than outside.
    After `timeout_s` seconds the machine is killed, and the text ends with a line that says so.
    """
    inside = ["env", *(f"{name}={value}" for name, value in _environment().items()), *command]
    process = subprocess.Popen(
        [
            # Before the other tests: they wait, while an emulated machine that waits stands still.
            *("nice", "-n", "-10"),
            *(
                str(PROGRAMS / "vng"),
                "--disable-kvm",
                "--run",
                str(image.vmlinuz),
                "--user",
                "root",
                "--cpus",
                "2",
                "--memory",
                "1G",
                "--verbose",
            ),
            *("--cwd", str(ROOT), f"--rwdir={results}", "--", shlex.join(inside)),
        ],
        env={
            **os.environ,
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        },  # vng finds its own programs by name
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        return process.communicate(timeout=timeout_s)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return (
            process.communicate(timeout=KILL_TIMEOUT_S)[0]
            + f"\nthe machine did not finish in {timeout_s} s and was killed\n"
        )
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=KILL_TIMEOUT_S)


def _environment() -> dict[str, str]:
    libraries = Path("/usr/lib", f"{os.uname().machine}-linux-gnu")
    return {
        IN_MACHINE: "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": "pytest_timeout",
        # Without these python-iptables runs ldconfig, gcc and ld to find its libraries, which
        # takes half a minute in the machine and 0.4 s outside.
        "IPTABLES_LIBDIR": f"{sysconfig.get_path('purelib')}:{libraries}",
        "XTABLES_LIBDIR": str(libraries / "xtables"),
    }
