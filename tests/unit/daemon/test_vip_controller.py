"""An attempt at a VIP that has ended, in a dry run with parts that do as a test says."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import cast

import pytest

from maglev0.coordination.session import Session, SessionState
from maglev0.core.service import HashFamily, HashMode
from maglev0.core.settings import Settings
from maglev0.daemon import vip_controller
from maglev0.daemon.vip_controller import VipContext, VipController
from maglev0.errors import UnavailableError
from maglev0.protocol.agreement import Agreement
from maglev0.telemetry.ports import TelemetrySink
from tests.support.configs import VIP, config
from tests.support.patience import PATIENCE_S

SETTINGS = Settings(16, HashMode.SOURCE_IP, 7, HashFamily.NFTABLES, "03:bf:c6:33:64:01", 20_000)


class Connected:
    """A session with an empty ZooKeeper."""

    state = SessionState.CONNECTED
    identity = None
    session = 1
    timeout_s = 4.0

    async def until(self, *_: object) -> None:
        """It is connected always."""

    async def get(self, path: str, *, watch: bool = False) -> None:
        """There is no order."""


class Failing:
    """A driver that fails at once and does not come round any more, as one that has ended."""

    is_stuck = True
    leaving = False
    has_withdrawn = True

    def __init__(self, *_: object) -> None:
        self.progress = SimpleNamespace(is_settled=False, lease_left_s=0.0)

    def wish(self, *_: object) -> None:
        """Nothing to do."""

    async def follow(self) -> None:
        raise UnavailableError("the link is gone")

    async def leave(self) -> None:
        """Nothing to do."""


class Silent:
    """A reporter that reports nothing, and counts how often its VIP has left."""

    words = "active"
    ended = 0

    def __init__(self, *_: object, **__: object) -> None:
        self.checks = None

    def look(self) -> None:
        """Nothing to do."""

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def withdraw(self) -> None:
        """Nothing to do."""

    def end(self) -> None:
        Silent.ended += 1


def test_a_vip_that_waits_for_its_next_attempt_is_not_stuck_and_leaves_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def agree(*_: object) -> Settings:
        return SETTINGS

    monkeypatch.setattr(Agreement, "agree", agree)
    monkeypatch.setattr(vip_controller, "NodeDriver", Failing)
    monkeypatch.setattr(vip_controller, "Reporter", Silent)
    monkeypatch.setattr(Silent, "ended", 0)

    async def scenario() -> None:
        sink = cast("TelemetrySink", SimpleNamespace(left=lambda _vip: None))
        context = VipContext(cast("Session", Connected()), "this", sink, lambda _vip: None)
        controller = VipController(config(), IPv4Address(VIP), context, None, None)
        with pytest.raises(UnavailableError):
            await controller.serve(lambda: None)
        assert not controller.is_stuck
        await controller.withdraw_and_leave()
        assert not controller.is_stuck
        await controller.drain()
        await controller.withdraw()
        await controller.leave()  # as at the daemon's end
        assert Silent.ended == 1

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))
