"""Ends a process whose main loop hangs: a hung daemon must not keep its buckets.

Kazoo's own thread keeps the session alive while the loop hangs in a full pipe or a stuck call.
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
    """A thread that watches the progress of the loop.

    Call `start`; then the loop must call `beat` at least `LOOKS` times per `timeout_s`. The thread
    counts its looks and reads no clock, so a process that was stopped and continued does not count
    as hung and can recover.
    """

    def __init__(self, timeout_s: float) -> None:
        self.period_s = timeout_s / LOOKS
        self._beats = 0
        self._timeout_s = timeout_s

    def beat(self) -> None:
        """Record that the loop has made progress."""
        self._beats += 1

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _watch(self) -> None:
        seen, quiet = -1, 0
        pause = threading.Event()
        while quiet < LOOKS:
            pause.wait(self.period_s)
            seen, quiet = (seen, quiet + 1) if self._beats == seen else (self._beats, 0)
        self._end()

    def _end(self) -> None:
        # Without stderr, descriptors or threads the message fails; the process ends all the same.
        try:
            text = (
                f"maglev0: the main loop has hung for {self._timeout_s:.1f} s: "
                "printing the stacks and exiting\n".encode()
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
