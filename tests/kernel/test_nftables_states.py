"""Any sequence of calls, deaths and disturbances leaves in the kernel what a plain model says, as
nft itself lists it.
"""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from maglev0.core.transition import Move
from maglev0.dataplane.nftables import buckets as nfbuckets
from maglev0.dataplane.nftables.dataplane import Nftables
from maglev0.errors import DataplaneError
from maglev0.protocol.ports.gate import Commit
from tests.kernel.conftest import Host
from tests.kernel.nft import LEASE_MS, NOTHING, SERVICE, Listed, listed

pytestmark = pytest.mark.kernel

TOTAL = 97
PIECE = 7  # so that loads of this size are cut short between transactions
WIDE = replace(SERVICE, total_nodes=TOTAL)
some_buckets = st.frozensets(st.integers(1, TOTAL), max_size=30)
moves = st.tuples(some_buckets, some_buckets).map(lambda pair: Move(pair[0], pair[1] - pair[0]))


class Model:
    """What the kernel should hold.

    `kept` are the buckets admitted for good, those in force among them.
    """

    def __init__(self) -> None:
        self.owned = NOTHING
        self.kept = NOTHING
        self.move: Move | None = None
        self.leased = self.armed = False

    @property
    def gains(self) -> frozenset[int]:
        return self.move.gains if self.move else NOTHING

    @property
    def listed(self) -> Listed:
        return Listed(self.owned, self.kept | self.gains, self.leased)


class Kernel(RuleBasedStateMachine):
    """Calls on one dataplane, whose process may die at any time and find its tables again."""

    host: Host
    guard: bool

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model = Model()
        self.dataplane = Nftables(WIDE, LEASE_MS, guard=self.guard)
        self.runner.run(self.dataplane.open())

    def teardown(self) -> None:
        self.runner.run(self.dataplane.close())
        self.runner.close()
        assert self.host.ruleset() == ""

    @rule(move=moves)
    def load(self, move: Move) -> None:
        self.runner.run(self.dataplane.stage(move))
        self.model.move = move

    @rule(given_up=moves, turns=st.integers(1, 12), move=moves)
    def load_twice(self, given_up: Move, turns: int, move: Move) -> None:
        """The first load is cut short between two transactions."""
        if self.runner.run(self.cut_short(given_up, turns)):
            with pytest.raises(DataplaneError, match="no move is staged"):
                self.runner.run(self.dataplane.commit(Commit.ACQUIRE))
        found = listed(self.host)
        assert found.owned == self.model.owned
        assert self.model.kept <= found.admitted
        self.load(move)

    async def cut_short(self, move: Move, turns: int) -> bool:
        """Give a load so many turns of the loop; return whether it would have needed more."""
        loading = asyncio.create_task(self.dataplane.stage(move))
        for _turn in range(turns):
            await asyncio.sleep(0)
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading
        return loading.cancelled()

    @precondition(lambda self: self.model.move is not None)
    @rule()
    def release(self) -> None:
        assert self.model.move is not None
        self.runner.run(self.dataplane.commit(Commit.RELEASE))
        self.model.owned -= self.model.move.losses

    @precondition(lambda self: self.model.move is not None)
    @rule(release_again=st.booleans())
    def acquire(self, release_again: bool) -> None:
        assert self.model.move is not None
        self.release()
        self.runner.run(self.dataplane.commit(Commit.ACQUIRE))
        self.runner.run(self.dataplane.commit(Commit.ACQUIRE))
        if release_again:
            self.runner.run(self.dataplane.commit(Commit.RELEASE))
        self.model.owned |= self.model.move.gains
        self.model.kept |= self.model.move.gains
        # Flipped again, it changes nothing; nothing of it is undone by the next load.
        self.model.move = Move(NOTHING, NOTHING)

    @rule(buckets=some_buckets)
    def forget(self, buckets: frozenset[int]) -> None:
        self.runner.run(self.dataplane.unpin(buckets))
        self.model.kept -= buckets - self.model.owned - self.model.gains

    @rule()
    def arm(self) -> None:
        self.runner.run(self.dataplane.arm())
        self.model.armed = True

    @rule()
    def promote(self) -> None:
        if self.model.armed:
            self.runner.run(self.dataplane.promote())
            self.model.leased, self.model.armed = True, False
        else:
            with pytest.raises(DataplaneError, match="no armed timer"):
                self.runner.run(self.dataplane.promote())

    @rule()
    def drop(self) -> None:
        self.runner.run(self.dataplane.drop())
        self.model.leased = self.model.armed = False

    @rule(loading=st.none() | moves, turns=st.integers(1, 12))
    def die_and_start_again(self, loading: Move | None, turns: int) -> None:
        """What death leaves behind.

        The sockets are closed and the kernel keeps its state. The tests by SIGKILL show that it is
        the same.
        """
        if loading is not None:
            self.runner.run(self.cut_short(loading, turns))
        before = listed(self.host)
        assert self.dataplane._events is not None
        self.dataplane._events.close()
        self.dataplane._tables.close()
        self.dataplane = Nftables(WIDE, LEASE_MS, guard=self.guard)
        self.runner.run(self.dataplane.open())
        assert listed(self.host) == before
        assert before.owned == self.model.owned
        assert before.admitted >= self.model.kept
        self.model.kept, self.model.move, self.model.armed = before.admitted, None, False

    @rule()
    def others_flush(self) -> None:
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        restored = self.runner.run(self.dataplane.repair())
        assert bool(restored) != self.guard
        if not self.guard:
            self.model.leased = self.model.armed = False

    @invariant()
    def the_kernel_holds_what_the_model_says(self) -> None:
        note(f"{self.model.listed}")
        assert listed(self.host) == self.model.listed
        assert self.runner.run(self.dataplane.owned()) == self.model.owned
        assert (
            self.runner.run(self.dataplane.kept())
            == self.model.kept - self.model.owned - self.model.gains
        )


@pytest.mark.parametrize("guard", [True, False])
def test_the_kernel_follows_the_model(
    host: Host, guard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nfbuckets, "PIECE", PIECE)
    monkeypatch.setattr(Kernel, "host", host, raising=False)
    monkeypatch.setattr(Kernel, "guard", guard, raising=False)
    run_state_machine_as_test(
        Kernel,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
