"""A systemd of our own: process 1 of fresh namespaces on this machine's file tree, with no units but those it is given."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Self

from maglev0.lab.testbed.process import Process

BOOT_TIMEOUT_S = 20
JOB_TIMEOUT_S = 30

# What it may not do to the machine: no sysctl, no generators, no units of the machine's own, nothing left in /run, nor in /tmp and /var/tmp (where a
# service has its private ones) but in the folder that both share, no mount that shows outside. A service's sandbox needs a root that is a mount
# point, which a chroot's seldom is, so the whole tree is mounted a second time; /sys/fs/cgroup is where a file system can be laid over in private on
# any machine.
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
exec env -i container=maglev0-test PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH="$UNITS" SYSTEMD_GENERATOR_PATH=/var/empty \\
    /lib/systemd/systemd --system --unit=basic.target --log-target=null --show-status=no
"""
TARGETS = ("sysinit", "shutdown", "network-online")
FIRST_TARGET = "[Unit]\nDefaultDependencies=no\nWants=booted.service\n"
FIRST_SERVICE = "[Service]\nType=oneshot\nExecStart=/bin/echo booted\nStandardOutput=append:{log}\n"


class Systemd:
    """As a context manager: booted in the network namespace when entered, gone with all its processes afterwards.

    `units` is a folder of unit files and may be added to before it boots; everything that it and they print goes to `log`. `shared` holds both,
    and whatever else of /tmp is to be there.
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
            # The kernel ends a pid namespace with its process 1, and the shell outside then clears up.
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
