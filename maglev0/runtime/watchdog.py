"""Ends a process whose main loop stands still: a hung daemon must not keep its place in the cluster.

Kazoo's own thread would keep the session alive while the loop hangs in a full pipe or a stuck call.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading

EXIT_STATUS = 70  # EX_SOFTWARE of sysexits.h
LOOKS = 8  # looks at the loop per timeout
DUMP_TIMEOUT_S = 1.0  # stderr may be the very pipe that is full


class Watchdog:
    """A thread that looks at the loop's progress. Made, then `start`; the loop calls `beat` at least `LOOKS` times per `timeout_s`.

    It counts its own looks instead of reading a clock: a process that was stopped and woken is not taken for one that hung,
    and gets the chance to recover.
    """

    def __init__(self, timeout_s: float) -> None:
        self.period_s = timeout_s / LOOKS
        self._beats = 0
        self._timeout_s = timeout_s

    def beat(self) -> None:
        """Tell that the loop has come round."""
        self._beats += 1

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _watch(self) -> None:
        seen, quiet = -1, 0
        pause = threading.Event()
        while quiet < LOOKS:
            pause.wait(self.period_s)
            seen, quiet = (seen, quiet + 1) if self._beats == seen else (self._beats, 0)
        self._end()

    def _end(self) -> None:
        # Whatever hinders the telling (no stderr, no descriptor or thread left), the process ends.
        try:
            text = (
                f"maglev0: the main loop stood still for {self._timeout_s:.1f} s; its stacks follow, then the process ends\n".encode()
                + _stacks()
            )
            writer = threading.Thread(
                target=os.write, args=(sys.stderr.fileno(), text), daemon=True
            )
            writer.start()
            writer.join(DUMP_TIMEOUT_S)
        finally:
            os._exit(EXIT_STATUS)


def _stacks() -> bytes:
    with os.fdopen(os.memfd_create("stacks"), "w+b") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
