from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from maglev0.dataplane.xdp import pins
from maglev0.dataplane.xdp.libbpf import Bpf
from tests.bench import testrun
from tests.kernel import fuzz_xdp
from tests.kernel.nft import renew
from tests.kernel.xdp import SERVICE, SOURCE, Program, frame, ifindex, opened, planted, run

pytestmark = pytest.mark.kernel


def test_random_and_malformed_frames_are_judged_as_the_rules_would() -> None:
    for _service, outcome in fuzz_xdp.run(36_000, seed=2):
        assert outcome.dropped > outcome.tried // 10
        assert not outcome.wrongly_dropped
        assert not outcome.wrongly_passed


PAST = (
    "table ip past { chain past { type filter hook prerouting priority -140; "
    f"ip daddr {SERVICE.vip} counter; }}; }}"
)


def past() -> int:
    """Return how many packets for the VIP the rules have accepted."""
    return int(
        run("nft", "list", "table", "ip", "past").partition("counter packets ")[2].split()[0]
    )


def test_the_kernels_own_rules_refuse_whatever_it_drops(bpf: Path) -> None:
    """The frames enter the real stack after the program, as if it had passed them."""

    async def scenario() -> None:
        async with opened(owned=range(1, 126)) as dataplane:
            await renew(dataplane)
            run("nft", PAST)
            program, rng = Program(bpf), random.Random(4)
            frames = [
                bytes.fromhex(SERVICE.cluster_mac.replace(":", "")) + frame(rng, SERVICE.vip)[6:]
                for _frame in range(10_000)
            ]
            dropped = [made for made in frames if program.drops(made)]
            program.close()
            inject(bpf, dropped)
            assert len(dropped) > 1000
            assert past() == 0
            inject(bpf, frames)
            assert past() > 1000

    asyncio.run(scenario())


def inject(bpf: Path, frames: Iterable[bytes]) -> None:
    """Send frames into the stack through a program that knows no VIP and passes them all."""
    library, place = Bpf(), bpf / "passing"
    if not place.exists():
        place.mkdir()
        library.install(
            (SOURCE.parent / "early.bpf.o").read_bytes(), pins.PROGRAM, pins.MAPS, place
        )
    program = library.get(place / pins.PROGRAM)
    try:
        for made in frames:
            testrun.run(library, program, made, live_on=ifindex())
    finally:
        os.close(program)


def test_a_program_that_drops_fragments_would_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(tmp_path, monkeypatch, "|| (ip->frag_off & bpf_htons(0x3fff))", "")
    assert any(outcome.wrongly_dropped for _service, outcome in fuzz_xdp.run(9_000, seed=3))
