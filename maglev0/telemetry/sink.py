"""The telemetry sink of a daemon: metrics for Prometheus, and the operator's program for events."""

from __future__ import annotations

import logging
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from maglev0.config.configuration import Config
from maglev0.errors import ConfigError, DataplaneError, MaglevError, ZooKeeperError
from maglev0.protocol.handover import Phase
from maglev0.protocol.states import ReportedState
from maglev0.telemetry.notify import Notifier, StateChange
from maglev0.telemetry.ports import Snapshot

if TYPE_CHECKING:
    from maglev0.telemetry.metrics.exporter import Exporter

log = logging.getLogger(__name__)

FLUSH_S = 1.0  # for the last events; a program that takes longer is killed


class DaemonSink:
    """The sink that all VIPs of a daemon share, see `TelemetrySink`.

    `start` raises MaglevError where the address for metrics cannot be had. Then `run` for ever, and
    `close` at the end.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._exporter: Exporter | None = None
        self._notifier = Notifier(config.notify, self._note_unnotified)
        # The rules of the early stage are made with counters or without, when a VIP starts.
        self._counts_early = config.metrics is not None or config.dry_run

    def start(self) -> None:
        """Begin to answer Prometheus, if the configuration says so."""
        if self._config.metrics is not None:
            self._exporter = _exporter(self._config.metrics, None)

    async def run(self) -> None:
        """Run the operator's program for each event, for ever."""
        await self._notifier.run()

    def reload(self, config: Config) -> None:
        """Take a new configuration.

        Raises MaglevError, with nothing changed, where the new address for metrics cannot be had.
        """
        if config.metrics is not None and config.metrics != self._config.metrics:
            self._exporter = _exporter(config.metrics, self._exporter)
            if not self._counts_early:
                log.warning(
                    "--metrics: the early stage refuses without counting until a restart, for its"
                    ' nftables rules have no counters: maglev0_packets_total{stage="early"} is'
                    " missing"
                )
        elif config.metrics is None and self._exporter is not None:
            self._exporter.stop()
            self._exporter = None
        self._notifier.use(config.notify)
        self._config = config

    def changed(self, event: StateChange) -> None:
        """See `TelemetrySink.changed`."""
        if event.state != ReportedState.LEFT:  # the VIP controller logs that itself
            log.info(
                "%s is %s, was %s%s",
                event.vip,
                event.state,
                event.former,
                f": {event.reason}" if event.reason else "",
            )
        self._notifier.notify(event)

    @property
    def listens(self) -> bool:
        """See `TelemetrySink.listens`."""
        return self._exporter is not None

    def seen(self, vip: IPv4Address, snapshot: Snapshot) -> None:
        """See `TelemetrySink.seen`."""
        if self._exporter is not None:
            self._exporter.publish(vip, snapshot)

    def took(self, vip: IPv4Address, phase: Phase, seconds: float) -> None:
        """See `TelemetrySink.took`."""
        if self._exporter is not None:
            self._exporter.took(vip, phase.name.lower(), seconds)

    def failed(self, kind: str) -> None:
        """See `TelemetrySink.failed`."""
        if self._exporter is not None:
            self._exporter.failed(kind)

    def raised(self, error: MaglevError) -> None:
        """Count an error by its kind."""
        kinds = {ConfigError: "config", DataplaneError: "kernel", ZooKeeperError: "zookeeper"}
        self.failed(next((kind for of, kind in kinds.items() if isinstance(error, of)), "other"))

    def answered(self, seconds: float) -> None:
        """Record how long ZooKeeper took to answer a request."""
        if self._exporter is not None:
            self._exporter.answered(seconds)

    def _note_unnotified(self) -> None:
        self.failed("notify")

    def left(self, vip: IPv4Address) -> None:
        """See `TelemetrySink.left`."""
        if self._exporter is not None:
            self._exporter.remove(vip)

    async def close(self) -> None:
        """Deliver the last events, within `FLUSH_S` seconds, and answer Prometheus no more."""
        await self._notifier.flush(FLUSH_S)
        if self._exporter is not None:
            self._exporter.stop()


def _exporter(address: tuple[str, int], present: Exporter | None) -> Exporter:
    """Make the exporter, or move it to another address.

    Raises MaglevError, with nothing changed, where the address cannot be had.
    """
    # prometheus_client is large, and only a daemon with --metrics needs it.
    from maglev0.telemetry.metrics.exporter import Exporter  # noqa: PLC0415

    exporter = present or Exporter()
    exporter.start(*address)
    return exporter
