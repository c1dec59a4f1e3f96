"""Run our programs as forks of this process, which has the libraries loaded already.

Starting Python and loading the libraries takes ten seconds of the emulated processor, which would
be most of these tests' time. A forked program runs its module as ``python -m`` does, in a session
and a namespace of its own, and writes to its own log.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from maglev0.daemon import supervisor  # noqa: F401  loaded once for all forks
from maglev0.lab.testbed import libc, namespace
from maglev0.lab.testbed.process import Process
from maglev0.lab.traffic import probe, responder  # noqa: F401


class Forked(Process):
    """A `Process` that is started by fork alone."""

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        log: Path,
        in_namespace: str,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._start = log.stat().st_size if log.exists() else 0
        log.touch()
        child = multiprocessing.get_context("fork").Process(
            target=_run, args=(module, arguments, log, in_namespace, environment or {}), daemon=True
        )
        child.start()
        assert child.pid is not None
        self._popen = _Child(child)  # type: ignore[assignment]
        self.pid = child.pid


class _Child:
    """The part of `subprocess.Popen` that `Process` uses."""

    def __init__(self, child: BaseProcess) -> None:
        self._child = child

    def poll(self) -> int | None:
        return self._child.exitcode

    def wait(self, timeout_s: float) -> int:
        self._child.join(timeout_s)
        if self._child.exitcode is None:
            raise subprocess.TimeoutExpired(self._child.name, timeout_s)
        return self._child.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self._child.exitcode is None and self._child.pid is not None:
            os.kill(self._child.pid, number)


def _run(
    module: str,
    arguments: Sequence[str],
    log: Path,
    in_namespace: str,
    environment: Mapping[str, str],
) -> None:
    os.setsid()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for descriptor, standard in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
        os.dup2(descriptor, standard)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    warnings.simplefilter(
        "ignore"
    )  # inherited from pytest, whose filters turn warnings into errors
    libc.setns(os.open(namespace.path_of(in_namespace), os.O_RDONLY))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")
