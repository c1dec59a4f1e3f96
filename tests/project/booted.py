"""A systemd of our own: process 1 of fresh namespaces, with only the units that it is given."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Self

from maglev0.lab.testbed.process import Process

BOOT_TIMEOUT_S = 20
JOB_TIMEOUT_S = 30

# This systemd must not change the machine: no sysctl, generators or units of the machine, nothing
# left in /run, nor in /tmp and /var/tmp except in the shared folder, no mount that shows outside.
# The sandbox of a service needs a root that is a mount point, which a chroot seldom is, so the
# whole tree is mounted a second time. On any machine a file system can be mounted over
# /sys/fs/cgroup in private.
SECOND_ROOT = """set -eu
for point in /sys /sys/fs/cgroup; do
    if mountpoint -q $point; then mount --make-private $point; fi
done
mount -t tmpfs tmpfs /sys/fs/cgroup
mkdir /sys/fs/cgroup/root
mount --rbind / /sys/fs/cgroup/root
mount --make-rprivate /sys/fs/cgroup/root
exec chroot /sys/fs/cgroup/root sh -euc "$BRANCH"
"""
# Its cgroups are a branch of the machine's tree, taken away again when it ends.
BRANCH = """
mount -t cgroup2 cgroup2 /sys/fs/cgroup
branch=/sys/fs/cgroup/maglev0-test-$$
mkdir $branch
echo $$ >$branch/cgroup.procs
unshare --mount --cgroup --pid --fork --uts --ipc --kill-child sh -euc "$BOOT" || true
echo $$ >/sys/fs/cgroup/cgroup.procs
find $branch -depth -type d -exec rmdir {} +
"""
BOOT = """
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
while umount --recursive --lazy /sys 2>/dev/null; do :; done
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/shared
mount --bind "$SHARED" /run/shared
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /var/tmp
mkdir --parents "$SHARED"
mount --move /run/shared "$SHARED"
rmdir /run/shared
mount --bind /dev/null /dev/console
exec env -i container=maglev0-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    SYSTEMD_UNIT_PATH="$UNITS" SYSTEMD_GENERATOR_PATH=/var/empty \\
    /lib/systemd/systemd --system --unit=basic.target --log-target=null --show-status=no
"""
TARGETS = ("sysinit", "shutdown", "network-online")
FIRST_TARGET = "[Unit]\nDefaultDependencies=no\nWants=booted.service\n"
FIRST_SERVICE = "[Service]\nType=oneshot\nExecStart=/bin/echo booted\nStandardOutput=append:{log}\n"


class Systemd:
    """A context manager: boots in the network namespace, and ends with all its processes.

    `units` is a folder of unit files, which may grow before the boot. `log` gets all output.
    `shared` contains both, and everything else of /tmp that the units need.
    """

    def __init__(self, units: Path, log: Path, shared: Path, network_namespace: str) -> None:
        self.units = units
        self.log = log
        self._shared = shared
        self._network_namespace = network_namespace

    def __enter__(self) -> Self:
        for target in TARGETS:
            (self.units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        (self.units / "basic.target").write_text(FIRST_TARGET)
        (self.units / "booted.service").write_text(FIRST_SERVICE.format(log=self.log))
        variables = [
            f"UNITS={self.units}",
            f"SHARED={self._shared}",
            f"BRANCH={BRANCH}",
            f"BOOT={BOOT}",
        ]
        command = [
            "env",
            *variables,
            "unshare",
            "--mount",
            "--propagation=unchanged",
            "sh",
            "-c",
            SECOND_ROOT,
        ]
        self.process = Process("systemd", command, self.log, self._network_namespace)
        try:
            self.process.wait_line("^booted$", BOOT_TIMEOUT_S)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        if not self.process.ended:
            # The kernel ends a pid namespace with its process 1; the shell outside then cleans up.
            os.kill(self._first_pid(), signal.SIGKILL)
        self.process.wait(JOB_TIMEOUT_S)

    def systemctl(self, *arguments: str) -> str:
        command = [
            "nsenter",
            f"--target={self._first_pid()}",
            "--mount",
            "--pid",
            "--root",
            "systemctl",
            "--no-pager",
            *arguments,
        ]
        done = subprocess.run(
            command,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=JOB_TIMEOUT_S,
        )
        return done.stdout.strip()

    def show(self, unit: str, name: str) -> str:
        return self.systemctl("show", "--value", f"--property={name}", unit)

    def _first_pid(self) -> int:
        """Process 1, by its number out here: the shell's child is unshare, and its child is it."""
        return _only_child(_only_child(self.process.pid))


def _only_child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)
