"""Scenarios for tests."""

from __future__ import annotations

from hypothesis import strategies as st

from maglev0.operator.simulate.scenario import (
    Change,
    ChangeKind,
    Scenario,
    scenario,
)

MOST_IDS = 24  # so that there is always somebody who can join


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """A cluster of a few members, and events that can happen to it."""
    ids = st.integers(1, MOST_IDS)
    weights = st.integers(0, 4)
    members = draw(
        st.dictionaries(ids, weights, min_size=1, max_size=8).filter(
            lambda some: any(some.values())
        )
    )
    events, now = [], members
    for _event in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(ChangeKind))
        able = st.sampled_from(
            sorted(set(range(1, MOST_IDS + 1)) - now.keys() if kind is ChangeKind.JOIN else now)
        )
        concerned = draw(
            st.dictionaries(
                able, st.just(0) if kind is ChangeKind.LEAVE else weights, min_size=1, max_size=3
            )
        )
        after = {
            member: weight
            for member, weight in now.items()
            if member not in concerned or kind is not ChangeKind.LEAVE
        }
        after |= {} if kind is ChangeKind.LEAVE else concerned
        if any(after.values()):
            events.append(Change(kind, concerned, "drawn"))
            now = after
    sizes = draw(st.lists(st.integers(MOST_IDS, 300), min_size=1, max_size=2, unique=True))
    return scenario(sizes, members, events)
