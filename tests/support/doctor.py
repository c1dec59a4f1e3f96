"""Machines of a lab that `maglev0 doctor` examines, and the faults that tests plant there."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

from maglev0.lab.testbed import namespace
from maglev0.lab.testbed.cluster import SETTLE_TIMEOUT_S, Lab
from maglev0.lab.testbed.node import INTERFACE
from maglev0.lab.testbed.process import Process, python_module
from maglev0.operator.doctor.finding import Severity
from tests.support.patience import PATIENCE_S

SPARE = 4  # the number of the machine that is not a member
PROBE_FOR_S = 0.3
FAULT, WARNING = Severity.FAULT, Severity.WARNING


class Diagnosis(NamedTuple):
    """Exit status and findings of the doctor; a finding is its JSON object."""

    status: int
    findings: tuple[Mapping[str, str], ...]

    @property
    def alarms(self) -> set[tuple[str, str]]:
        """Severity and check of all that is worse than a note."""
        return {
            (found["severity"], found["check"])
            for found in self.findings
            if found["severity"] in (FAULT, WARNING)
        }

    def words(self, check: str) -> str:
        """What is wrong and what fixes it, of all findings of a check."""
        return "; ".join(
            f"{found['what']}. {found['fix']}" for found in self.findings if found["check"] == check
        )


def doctor(
    space: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] = (),
) -> Diagnosis:
    command = [
        "nsenter",
        f"--net={namespace.path_of(space)}",
        "--",
        *prefix,
        *python_module("maglev0", "doctor", "--json", *arguments),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        env=os.environ | dict(environment or {}),
    )
    assert done.stderr == "", done.stderr
    diagnosis = Diagnosis(done.returncode, tuple(json.loads(done.stdout)["findings"]))
    assert diagnosis.status == int(any(severity == FAULT for severity, _check in diagnosis.alarms))
    assert all(
        found["why"] and found["fix"]
        for found in diagnosis.findings
        if found["severity"] in (FAULT, WARNING)
    )
    return diagnosis


class Site:
    """The lab and its machines, examined and disturbed."""

    def __init__(self, made: Lab) -> None:
        self.cluster = made

    def examine(self, number: int, *arguments: str, prefix: tuple[str, ...] = ()) -> Diagnosis:
        machine = self.cluster.nodes[number].machine
        flags = (
            f"--zk={self.cluster.zookeeper.connect_string}",
            f"--interface={INTERFACE}",
            f"--probe-for={PROBE_FOR_S}",
            *arguments,
        )
        return doctor(
            machine.namespace,
            *flags,
            environment={"MAGLEV0_BPFFS": str(machine.bpf_file_system)},
            prefix=prefix,
        )

    def examine_all(self, *numbers: int) -> list[Diagnosis]:
        """Several machines at once: two doctors do not disturb each other."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self.examine, numbers))

    def run(self, number: int, *command: str) -> str:
        return in_space(self.cluster.nodes[number].machine.namespace, *command)

    @contextmanager
    def planted(self, number: int, fault: str, cure: str) -> Iterator[None]:
        """A fault that one command makes and another removes, both as words divided by spaces."""
        self.run(number, *fault.split())
        try:
            yield
        finally:
            self.run(number, *cure.split())

    @contextmanager
    def rules(self, number: int, chain: str) -> Iterator[None]:
        """A packet filter of another program."""
        self.run(number, "nft", f"table inet foreign {{ chain filter {{ {chain} }}; }}")
        try:
            yield
        finally:
            self.run(number, "nft", "delete table inet foreign")

    @contextmanager
    def switch(self, port: str, on: str, off: str) -> Iterator[None]:
        """A setting of one port of the traffic switch."""
        space = self.cluster.claim.namespace("switch")
        in_space(space, "bridge", "link", "set", "dev", port, *on.split())
        try:
            yield
        finally:
            in_space(space, "bridge", "link", "set", "dev", port, *off.split())

    @contextmanager
    def onlooker(self, *arguments: str, ahead_s: float = 0.0) -> Iterator[None]:
        """A real daemon in a dry run on the spare machine, whose clock is ahead."""
        clock = f"import sys, time; real = time.time; time.time = lambda: real() + {ahead_s}"
        program = f"{clock}; from maglev0.main import main; sys.exit(main(sys.argv[1:]))"
        machine = self.cluster.nodes[SPARE].machine
        flags = [
            f"--zk={self.cluster.zookeeper.connect_string}",
            f"--interface={INTERFACE}",
            f"--my-id={SPARE}",
            "--dry-run",
            *arguments,
        ]
        command = [python_module("")[0], "-c", program, *flags]
        environment = {"RUNTIME_DIRECTORY": str(machine.runtime_directory)}
        daemon = Process(
            "onlooker",
            command,
            machine.directory / f"onlooker{len(arguments)}.log",
            machine.namespace,
            environment,
        )
        try:
            daemon.wait_line("is responsible for|owns nothing|NFTABLES Nodes", SETTLE_TIMEOUT_S)
            yield
        finally:
            daemon.stop()


def in_space(space: str, *command: str) -> str:
    done = subprocess.run(
        ["nsenter", f"--net={namespace.path_of(space)}", "--", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout
