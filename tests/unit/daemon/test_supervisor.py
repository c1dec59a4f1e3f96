"""The supervisor and its slots, with controllers that do as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any

import pytest

from maglev0.config.configuration import Config
from maglev0.coordination import diagnosis
from maglev0.coordination.session import SessionState
from maglev0.daemon import supervisor, vip_slot
from maglev0.daemon.supervisor import Supervisor
from maglev0.errors import ConfigError, MaglevError, UnavailableError
from maglev0.runtime.waiting import together
from tests.support.configs import config
from tests.support.patience import PATIENCE_S

VIPS = "198.51.100.1", "198.51.100.2", "198.51.100.3"
FIRST, SECOND, THIRD = map(IPv4Address, VIPS)


class Absent:
    """A session that connects to nothing."""

    state = SessionState.CONNECTING
    timeout_s = 4.0

    def __init__(self, *_: object) -> None:
        self.closed = False

    def start(self) -> None:
        """Connect to nothing."""

    async def until(self, *_: object) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.closed = True


class Attempt:
    """In the place of a `VipController`; `made` has all of them, the last one last."""

    made: list[Attempt]  # of the test that runs

    def __init__(self, config: Config, vip: IPv4Address, context: Any, *_: object) -> None:
        self.vip, self.config, self._context = vip, config, context
        self.is_stuck, self.words = False, ""
        self.left = 0
        self.may_leave = asyncio.Event()
        self.may_leave.set()
        self._outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.made.append(self)

    async def serve(self, connect: Callable[[], None]) -> None:
        connect()
        await self._outcome

    def settle(self) -> None:
        self._context.settled(self.vip)

    def fail(self, error: MaglevError) -> None:
        self._outcome.set_exception(error)

    def notice(self, path: str | None) -> None:
        """Nothing to do."""

    def reload(self, config: Config) -> None:
        self.config = config

    async def drain(self) -> None:
        """Nothing to do."""

    async def withdraw(self) -> None:
        """Nothing to do."""

    async def withdraw_and_leave(self) -> None:
        await self.may_leave.wait()
        await self.leave()

    async def leave(self) -> None:
        self.left += 1
        await asyncio.sleep(0.01)


class Daemon:
    """A supervisor that serves, and what a test does to it."""

    def __init__(self, vips: tuple[str, ...]) -> None:
        self.supervisor = Supervisor(config(vips=vips))
        self._wanted = config(vips=vips)
        self._asked = asyncio.Event()
        self.serving = asyncio.create_task(
            together(
                self.supervisor.serve(),
                self.supervisor.reload_whenever(self._asked, lambda: self._wanted),
            )
        )

    async def reload(self, *vips: str) -> None:
        self._wanted = config(vips=vips)
        self._asked.set()
        await until(lambda: not self._asked.is_set())
        await asyncio.sleep(0)

    async def attempt(self, vip: IPv4Address, number: int = 1) -> Attempt:
        """The attempt of that number at a VIP, once it runs."""
        await until(lambda: len([each for each in Attempt.made if each.vip == vip]) >= number)
        await asyncio.sleep(0)
        return [each for each in Attempt.made if each.vip == vip][number - 1]

    async def stop(self) -> None:
        self.serving.cancel()
        await asyncio.wait([self.serving])
        await self.supervisor.leave()


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  none of it tells
        await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    Attempt.made = []
    monkeypatch.setattr(supervisor, "Session", Absent)
    monkeypatch.setattr(supervisor, "VipController", Attempt)

    async def narrate(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(diagnosis, "narrate", narrate)


def run(test: Callable[[Daemon], Awaitable[None]], *vips: str) -> None:
    async def whole() -> None:
        async with asyncio.timeout(PATIENCE_S):
            daemon = Daemon(vips)
            try:
                await test(daemon)
            finally:
                daemon.serving.cancel()
                await asyncio.wait([daemon.serving])

    asyncio.run(whole())


@contextmanager
def noted_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The pauses between attempts, none of which lasts."""
    pauses: list[float] = []
    whole = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds >= 0.1:
            pauses.append(seconds)
        await whole(min(seconds, 0.001))

    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "sleep", sleep)
        yield pauses


def test_a_vip_that_is_dropped_and_added_leaves_before_it_is_served_again() -> None:
    async def test(daemon: Daemon) -> None:
        first = await daemon.attempt(SECOND)
        first.may_leave.clear()
        await daemon.reload(VIPS[0])
        await daemon.reload(*VIPS[:2])
        await asyncio.sleep(0.01)
        assert [each for each in Attempt.made if each.vip == SECOND] == [first]
        first.may_leave.set()
        second = await daemon.attempt(SECOND, 2)
        assert (first.left, second.left) == (1, 0)

    run(test, *VIPS[:2])


def test_a_stop_while_a_vip_leaves_that_a_reload_added_again_leaves_all_others() -> None:
    """The collection of VIPs changes while the daemon goes through it: none may be left out."""

    async def test(daemon: Daemon) -> None:
        leaving, *others = [await daemon.attempt(vip) for vip in (FIRST, SECOND, THIRD)]
        leaving.may_leave.clear()
        await daemon.reload(*VIPS[1:])
        await daemon.reload(*VIPS)
        daemon.serving.cancel()
        await asyncio.wait([daemon.serving])
        leaving.may_leave.set()
        await daemon.supervisor.leave()
        assert [each.left > 0 for each in (leaving, *others)] == [True] * 3
        assert len(Attempt.made) == 3

    run(test, *VIPS)


def test_a_vip_that_a_reload_asks_for_again_counts_as_one_that_may_be_served() -> None:
    async def test(daemon: Daemon) -> None:
        (await daemon.attempt(SECOND)).fail(ConfigError("--total-nodes=5 (the cluster has 7)"))
        await until(lambda: Attempt.made[1].left)
        await daemon.reload(*VIPS[:2])
        await daemon.attempt(SECOND, 2)
        (await daemon.attempt(FIRST)).fail(UnavailableError("a hiccup"))
        again = await daemon.attempt(FIRST, 2)
        assert not daemon.serving.done()
        again.settle()

    run(test, *VIPS[:2])


def test_a_daemon_none_of_whose_vips_can_be_served_raises_the_last_error() -> None:
    async def test(daemon: Daemon) -> None:
        (await daemon.attempt(SECOND)).fail(ConfigError("the first one"))
        await until(lambda: Attempt.made[1].left)
        (await daemon.attempt(FIRST)).fail(UnavailableError("the last one"))
        with suppress(asyncio.CancelledError), pytest.raises(MaglevError, match="the last one"):
            await daemon.serving

    run(test, *VIPS[:2])


def test_pauses_between_attempts_grow_and_are_short_again_after_a_long_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 1000.0

    async def test(daemon: Daemon) -> None:
        nonlocal now_s
        (await daemon.attempt(FIRST)).settle()
        with noted_pauses(monkeypatch) as pauses:
            for number in range(1, 11):
                attempt = await daemon.attempt(SECOND, number)
                attempt.fail(UnavailableError("no link"))
            attempt = await daemon.attempt(SECOND, 11)
            attempt.settle()
            now_s += 29  # seconds, of a service that is no news yet
            attempt.fail(UnavailableError("no link"))
            attempt = await daemon.attempt(SECOND, 12)
            attempt.settle()
            now_s += 30
            attempt.fail(UnavailableError("no link"))
            await daemon.attempt(SECOND, 13)
        assert [pause for pause in pauses if pause != supervisor.STATUS_S] == [
            *(0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6),
            *(30.0, 30.0, 0.1),
        ]

    monkeypatch.setattr(vip_slot, "time", SimpleNamespace(monotonic=lambda: now_s))
    run(test, *VIPS[:2])
