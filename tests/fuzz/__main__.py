"""Fuzzes the readers of znodes: `python -m tests.fuzz [--seconds=60] [--seed=1]`.

Exits with 0 if nothing was found; otherwise the inputs are in .cache/fuzz.

atheris, a fuzzer for Python on LLVM's libFuzzer, sees which branches of the readers an input takes,
and varies the inputs that took a new one. Some inputs are data as they are, others are choices of
which Hypothesis makes almost valid records. The corpus in .cache/fuzz/corpus is kept for the next
run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # it has no stubs, and not every machine has it
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

with atheris.instrument_imports(include=["maglev0"]):
    from tests.fuzz import mutations
    from tests.fuzz.targets import (
        RECORDS,
        Target,
        almost,
        check,
        check_children,
        check_held,
        children,
        left_session,
    )

PLACE = Path(".cache/fuzz")
LIMITS = (
    "-max_len=8192",
    "-len_control=0",
    "-timeout=5",
    "-rss_limit_mb=1024",
    "-print_final_stats=1",
)
SIZES = (1, 5, 16, 64, 1009, 65_537)
SEEDS = 20  # records of each kind to begin with


def main() -> None:
    """Fuzz, and end the process as libFuzzer does: with 0, or 77 after a finding."""
    options = argparse.ArgumentParser(prog="python -m tests.fuzz")
    options.add_argument("--seconds", type=int, default=60)
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    corpus = PLACE / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    targets = (*RECORDS, left_session(PLACE))
    for place, target in enumerate(targets):
        sow(corpus, place, target)
    arguments = [
        f"-seed={asked.seed}",
        f"-max_total_time={asked.seconds}",
        f"-artifact_prefix={PLACE}/",
        *LIMITS,
        str(corpus),
    ]
    atheris.Setup(["fuzz", *arguments], entry(targets))
    atheris.Fuzz()


def entry(targets: Sequence[Target]) -> Callable[[bytes], None]:
    """The entry of libFuzzer; the first byte chooses the reader and the maker of the data."""

    records = [
        st.builds(partial, st.just(check), st.just(target), almost(target)) for target in targets
    ]
    holding = mutations.held().map(lambda sized: partial(check_held, *sized))
    parents = children().map(lambda sized: partial(check_children, *sized))

    @given(st.one_of(*records, holding, parents))
    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    def almost_valid(checked: Callable[[], None]) -> None:
        checked()

    def one(data: bytes) -> None:
        which, rest = data[:1], data[1:]
        if not which:
            return
        place = which[0] % 16
        if place < len(targets):
            check(targets[place], rest)
        elif place == len(targets):
            check_held(SIZES[which[0] // 16 % len(SIZES)], rest)
        else:
            almost_valid.hypothesis.fuzz_one_input(rest)  # type: ignore[attr-defined]  # Hypothesis adds it

    return one


def sow(corpus: Path, place: int, target: Target) -> None:
    """Lay out valid records for one target, for libFuzzer to begin with."""

    @given(target.valid)
    @settings(
        max_examples=SEEDS, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    def lay(data: bytes) -> None:
        (corpus / f"valid-{blake2b(data, digest_size=8).hexdigest()}").write_bytes(
            bytes([place]) + data
        )

    lay()


if __name__ == "__main__":
    main()
