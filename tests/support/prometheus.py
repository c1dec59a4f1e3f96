"""Debian's Prometheus: its judge of rules, and a server with data of its own.

The server scrapes what tests start.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from maglev0.lab.testbed import namespace
from maglev0.lab.testbed.process import Process, wait_for
from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "maglev0" / "telemetry" / "prometheus"
ASK_S = 0.1  # there is no event for "it has scraped"; asking costs it a millisecond

Series = dict[tuple[tuple[str, str], ...], float]


def program(name: str) -> str:
    """Where prometheus or promtool is: on the path, or where `.ci/need test` has unpacked it."""
    unpacked = ROOT / ".cache" / "prometheus" / "usr" / "bin" / name
    found = shutil.which(name) or (str(unpacked) if unpacked.exists() else None)
    assert found is not None, f"{name} is missing: run .ci/need test"
    return found


class Prometheus:
    """As a context manager: one server on 127.0.0.1 that scrapes the targets every second.

    It runs in a namespace where one is named.
    """

    def __init__(
        self, directory: Path, targets: Sequence[str], port: int, in_namespace: str | None = None
    ) -> None:
        self._port = port
        self._namespace = in_namespace
        (directory / "prometheus.yml").write_text(json.dumps(_settings(targets)))  # JSON is YAML
        flags = {
            "config.file": directory / "prometheus.yml",
            "storage.tsdb.path": directory / "data",
            "web.listen-address": f"127.0.0.1:{port}",
        }
        command = [program("prometheus"), *(f"--{name}={value}" for name, value in flags.items())]
        self.process = Process("prometheus", command, directory / "prometheus.log", in_namespace)

    def __enter__(self) -> Self:
        try:
            self.process.wait_line("Server is ready to receive web requests", PATIENCE_S)
        except BaseException:
            self.process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()

    def get(self, path: str, **parameters: str | float) -> Any:
        """The `data` of an answer of its HTTP interface."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        with namespace.inside(self._namespace):
            connection.connect()
        try:
            connection.request("GET", f"/api/v1/{path}?{urlencode(parameters)}")
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> Series:
        """What an expression gives now: its values by their labels."""
        return _series(self.get("query", query=expression)["result"])

    def value(self, expression: str) -> float | None:
        """What an expression with one value gives now; `None` where it gives none."""
        found = list(self.query(expression).values())
        assert len(found) <= 1, found
        return found[0] if found else None

    def course(self, expression: str, seconds: float) -> list[float]:
        """The values of an expression with one value over the last seconds, one for each second."""
        now = time.time()
        result = self.get("query_range", query=expression, start=now - seconds, end=now, step=1)[
            "result"
        ]
        return [float(value) for _at, value in result[0]["values"]] if result else []

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
        """Return once the condition holds."""
        wait_for(lambda: True if condition() else None, [self.process], timeout_s, what, ASK_S)


def _settings(targets: Sequence[str]) -> Mapping[str, Any]:
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(SHIPPED / "alerts.yml")],
        "scrape_configs": [{"job_name": "maglev0", "static_configs": [{"targets": list(targets)}]}],
    }


def _series(result: Sequence[Mapping[str, Any]]) -> Series:
    return {tuple(sorted(entry["metric"].items())): float(entry["value"][1]) for entry in result}
