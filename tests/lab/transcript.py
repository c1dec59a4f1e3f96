"""A transcript of the operator's commands on a cluster in a box.

The cluster is healthy, in a hand-over, with a planted overlap and with a planted hole.

Usage:
  transcript [--directory=DIR]

Options:
  --directory=DIR   where the pictures go [default: .cache/shows]

Prints what each command printed. The pictures are the page of `status --watch`, as SVG, and the
plot of `simulate`, as PNG.
"""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docopt
from rich.console import Console
from rich.text import Text

from maglev0.lab.chaos import saboteur
from maglev0.lab.errors import LabError
from maglev0.lab.testbed import addresses, namespace
from maglev0.lab.testbed.cluster import Lab, LabSettings
from maglev0.lab.testbed.process import python_module, wait_for
from maglev0.lab.traffic.clients import Clients, Pace

if TYPE_CHECKING:
    from collections.abc import Iterator

PROMPT_S = 60.0
WIDTH, HEIGHT = 130, 40
LOAD = Pace(sources=tuple(range(32)), rate=100.0, held_rate=50.0, connections=60)


class Transcript:
    """Runs commands on a node and prints what they print."""

    def __init__(self, cluster: Lab, directory: Path) -> None:
        self.cluster = cluster
        self._directory = directory
        self.plot = directory / "simulate.png"

    def _command(self, node: int, *arguments: str) -> list[str]:
        machine = self.cluster.nodes[node].machine
        inside = [
            "env",
            f"MAGLEV0_BPFFS={machine.bpf_file_system}",
            f"COLUMNS={WIDTH}",
            "nsenter",
            f"--net={namespace.path_of(machine.namespace)}",
            "--",
        ]
        flags = (
            f"--zk={self.cluster.zookeeper.connect_string}",
            f"--cluster-ip={self.cluster.settings.vip}",
        )
        return [*inside, *python_module("maglev0", *arguments, *flags)]

    def ask(self, *arguments: str, node: int = 1, quiet: bool = False) -> str:
        """Run a command on a node; what it printed."""
        start_s = time.monotonic()
        done = subprocess.run(
            self._command(node, *arguments),
            capture_output=True,
            text=True,
            timeout=PROMPT_S,
            check=False,
        )
        said = done.stdout + done.stderr
        if not quiet:
            say(
                f"$ maglev0 {' '.join(arguments)}\n{said}[exit {done.returncode}, "
                f"{time.monotonic() - start_s:.1f} s]\n"
            )
        return said

    def until_sound(self, age_s: float = 0.0) -> None:
        """Wait until every bucket has one owner, and had that long enough."""

        def sound() -> bool | None:
            said = self.ask("status", quiet=True)
            found = re.search(r"view \d+, for (\d+) s", said)
            return (
                True if found and int(found[1]) >= age_s and "exactly one owner" in said else None
            )

        wait_for(sound, [], PROMPT_S, "the cluster to be sound", 0.3)

    @contextmanager
    def planted(self, plant: Any, bucket: int, alarm: str) -> Iterator[None]:
        """Plant a fault in backend-2's kernel twenty times a second, for its daemon mends it
        whenever it looks; begins when the alarm is raised.
        """
        over = threading.Event()
        planting = threading.Thread(target=self._plant, args=(plant, bucket, over))
        start_s = time.monotonic()
        planting.start()
        try:
            line = self.cluster.nodes[1].daemon.wait_line(alarm, PROMPT_S)[0]
            say(
                f"log of backend-1, {time.monotonic() - start_s:.1f} s after the first "
                f"planting: {line}\n"
            )
            yield
        finally:
            over.set()
            planting.join()

    def _plant(self, plant: Any, bucket: int, over: threading.Event) -> None:
        while not over.wait(0.05):
            with suppress(LabError):
                plant(self.cluster.nodes[2], self.cluster.settings.vip, [bucket])

    def screenshot(self) -> None:
        """What `status --watch` shows in a terminal, as a picture."""
        master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (HEIGHT, WIDTH))
        terminal = os.environ | {"TERM": "xterm-256color"}
        watching = subprocess.Popen(
            self._command(1, "status", "--watch"),
            stdout=slave,
            stderr=slave,
            stdin=slave,
            env=terminal,
        )
        os.close(slave)
        drawn = b""
        while drawn.count(b"every bucket") < 2:  # the second drawing begins with clearing the first
            drawn += os.read(master, 65536)
        watching.send_signal(signal.SIGINT)
        watching.wait(PROMPT_S)
        os.close(master)
        first = drawn[: drawn.index(b"every bucket", drawn.index(b"every bucket") + 1)].split(
            b"\x1b[2K"
        )
        frame = max(first, key=len).replace(b"\x1b[?25l", b"").replace(b"\r", b"").decode()
        console = Console(
            record=True,
            width=WIDTH,
            file=io.StringIO(),
            force_terminal=True,
            color_system="truecolor",
        )
        console.print(Text.from_ansi(frame))
        path = self._directory / "status.svg"
        console.save_svg(str(path), title="maglev0 status --watch")
        say(f"picture: {path}\n")


def say(text: str) -> None:
    """Print it at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def chapter(text: str) -> None:
    """Say what comes."""
    say(f"\n## {text}\n")


def own(cluster: Lab, number: int) -> int:
    """A bucket of a node's own."""
    picture = cluster.nodes[number].picture()
    assert picture is not None
    return int(picture.held.split(",")[0])


def show(told: Transcript) -> None:
    """All commands, one after the other."""
    cluster = told.cluster
    client = addresses.client_address(0)
    told.until_sound(8)
    chapter("Healthy")
    told.ask("status")
    told.ask("explain", f"{client}:40000", str(addresses.SERVICE_PORT))
    told.ask("doctor")
    told.screenshot()
    with Clients(cluster, LOAD) as users:
        users.wait_held()
        chapter(
            "During a hand-over: backend-2 drains under load while backend-3's "
            "daemon is stopped, whose lease must be waited for"
        )
        cluster.nodes[3].daemon.signal(signal.SIGSTOP)
        told.ask("drain", "--no-wait", "2")
        told.ask("status")
        told.ask("explain", f"{client}:40000", str(addresses.SERVICE_PORT), node=2)
        cluster.nodes[3].daemon.signal(signal.SIGCONT)
        told.until_sound()
        retiring = threading.Timer(6.0, users.retire, (2,))
        retiring.start()
        told.ask("drain", "2")
        told.ask("status")
        told.ask("undrain", "2")
        told.ask("weight", "3", "2")
        told.ask("weight", "3", "own")
        retiring.join()
        say(
            "connections broken by all that: "
            f"{sum(turn.is_break for turn in users.stop().turns)} of "
            f"{LOAD.connections}"
        )
    told.until_sound(8)
    chapter("A planted overlap: a bucket of backend-1's is put in force on backend-2")
    with told.planted(saboteur.put_in_force, own(cluster, 1), r".*error: overlap: .*"):
        told.ask("status")
    told.until_sound()
    chapter("A planted hole: backend-2 is robbed of a bucket")
    with told.planted(saboteur.take_out_of_force, own(cluster, 2), r".*error: hole: .*"):
        told.ask("status")
    told.until_sound()
    chapter("What if")
    told.ask("simulate", "--live", "-2", f"--plot={told.plot}")


def main() -> None:
    """Build a cluster, show everything, remove it."""
    directory = Path(docopt.docopt(__doc__)["--directory"]).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    with Lab(LabSettings(nodes=3, session_timeout_s=2.0, more_flags=("--xdp=off",))) as cluster:
        cluster.start()
        show(Transcript(cluster, directory))


if __name__ == "__main__":
    main()
