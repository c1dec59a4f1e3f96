"""Where the daemon's parts tell what happens: metrics for Prometheus, and a program of the operator's for each change of state."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from maglev0.config.configuration import Config
from maglev0.errors import ConfigError, DataplaneError, MaglevError, ZooKeeperError
from maglev0.protocol.handover import Phase
from maglev0.runtime.waiting import together, until_set
from maglev0.telemetry.notify import Notifier, StateChange
from maglev0.telemetry.reporter import LEFT, Snapshot

if TYPE_CHECKING:
    from maglev0.telemetry.metrics.exporter import Exporter

log = logging.getLogger(__name__)

FLUSH_S = 1.0  # for the last notices; a program that takes longer is ended


class DaemonSink:
    """See `reporting.Outlet`. `start` raises MaglevError where the metrics' address is taken; then `run` for ever, `close` at the end."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._exporter: Exporter | None = None
        self._notifier = Notifier(config.notify, self._not_told)
        self._renewed = asyncio.Event()

    def start(self) -> None:
        """Begin to answer Prometheus, if the configuration says so."""
        if self._config.metrics is not None:
            self._exporter = _exporter(self._config.metrics, None)

    async def run(self) -> None:
        """Call the operator's program, for ever."""
        while True:
            self._renewed.clear()
            await together(self._notifier.run(), until_set(self._renewed))

    def reload(self, config: Config) -> None:
        """Go on by another configuration; raises MaglevError, with nothing changed, where the metrics' new address is taken."""
        if config.metrics is not None and config.metrics != self._config.metrics:
            self._exporter = _exporter(config.metrics, self._exporter)
        elif config.metrics is None and self._exporter is not None:
            self._exporter.stop()
            self._exporter = None
        if config.notify != self._config.notify:
            self._notifier = Notifier(config.notify, self._not_told)
            self._renewed.set()
        self._config = config

    def changed(self, event: StateChange) -> None:
        """See `Outlet.changed`."""
        if event.state != LEFT:  # of which the log tells by itself
            log.info(
                "%s is %s, was %s%s",
                event.vip,
                event.state,
                event.former,
                f": {event.reason}" if event.reason else "",
            )
        self._notifier.tell(event)

    @property
    def listens(self) -> bool:
        """See `Outlet.listens`."""
        return self._exporter is not None

    def seen(self, vip: IPv4Address, snapshot: Snapshot) -> None:
        """See `Outlet.seen`."""
        if self._exporter is not None:
            self._exporter.publish(vip, snapshot)

    def took(self, vip: IPv4Address, stage: Phase, seconds: float) -> None:
        """See `Outlet.took`."""
        if self._exporter is not None:
            self._exporter.took(vip, stage.name.lower(), seconds)

    def failed(self, kind: str) -> None:
        """See `Outlet.failed`."""
        if self._exporter is not None:
            self._exporter.failed(kind)

    def raised(self, error: MaglevError) -> None:
        """Count an error by its kind."""
        kinds = {ConfigError: "config", DataplaneError: "kernel", ZooKeeperError: "zookeeper"}
        self.failed(next((kind for of, kind in kinds.items() if isinstance(error, of)), "other"))

    def answered(self, seconds: float) -> None:
        """ZooKeeper took so long to answer."""
        if self._exporter is not None:
            self._exporter.asked(seconds)

    def _not_told(self) -> None:
        self.failed("notify")

    def left(self, vip: IPv4Address) -> None:
        """See `Outlet.left`."""
        if self._exporter is not None:
            self._exporter.forget(vip)

    async def close(self) -> None:
        """Let the last notices out, and answer no more."""
        await self._notifier.flush(FLUSH_S)
        if self._exporter is not None:
            self._exporter.stop()


def _exporter(address: tuple[str, int], present: Exporter | None) -> Exporter:
    """The exporter, made or moved to that address; MaglevError, with nothing changed, where that is taken."""
    from maglev0.telemetry.metrics.exporter import Exporter  # noqa: PLC0415  prometheus_client is for who wants metrics

    exporter = present or Exporter()
    exporter.start(*address)
    return exporter
