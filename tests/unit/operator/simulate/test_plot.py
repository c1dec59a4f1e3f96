"""The picture of a scenario shows its buckets, movements and shares."""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgba, to_rgba_array
from matplotlib.figure import Figure

from maglev0.operator.simulate import drawing, plot
from maglev0.operator.simulate.scenario import (
    Scenario,
    ScenarioStep,
    evaluate,
    parse_event,
    parse_members,
    scenario,
)
from tests.support.scenarios import scenarios

Cell = tuple[float, ...]


def drawn(asked: Scenario) -> tuple[list[ScenarioStep], Figure]:
    steps = [step for step in evaluate(asked) if step.number]
    return steps, plot.figure(asked, steps)


def cells(axes: Axes, count: int) -> list[Cell]:
    """The colours of a grid's first cells, line by line."""
    (image,) = axes.images
    places = image.get_array()
    assert places is not None
    assert isinstance(image.cmap, ListedColormap)
    palette = to_rgba_array(image.cmap.colors).tolist()
    return [tuple(palette[place]) for place in places.ravel().tolist()[:count]]


def colours_of(asked: Scenario) -> Mapping[int, Cell]:
    return {member: to_rgba(colour) for member, colour in plot._colours(asked).items()}


@pytest.mark.parametrize(
    ("size", "members"),
    [(100, "1-2"), (100, "3-100"), (1009, "1-8"), (1009, "1-9"), (65_537, "1-5")],
)
def test_the_grids_show_each_bucket_s_owner_and_what_moved(size: int, members: str) -> None:
    last = int(members.rpartition("-")[2])
    asked = scenario(
        [size], parse_members(members), [parse_event(f"-{last}"), parse_event(f"+{last}:3")]
    )
    steps, figure = drawn(asked)
    colours = colours_of(asked)
    rows = [figure.axes[start : start + 5] for start in range(0, len(figure.axes), 5)]
    for step, (before, moved, after, _flows, _bars) in zip(steps, rows, strict=True):
        assert step.before is not None
        assert cells(before, size) == [colours[owner] for owner in step.before]
        assert cells(after, size) == [colours[owner] for owner in step.owners]
        expected = [
            to_rgba(drawing.STILL) if old == new else colours[new]
            for old, new in zip(step.before, step.owners, strict=True)
        ]
        assert cells(moved, size) == expected
        assert sum(cell != to_rgba(drawing.STILL) for cell in expected) == step.movement.moved


def test_the_numbers_that_matter_stand_above() -> None:
    steps, figure = drawn(scenario([64, 5], parse_members("1-5"), [parse_event("-3")]))
    texts = "\n".join(text.get_text() for text in figure.texts)
    assert "Who owns which of 64 and 5 buckets" in texts
    for step in steps:
        moved, necessary, disruption = step.movement
        assert f"backend-3 leaves: {moved} ({moved / step.size:.2%}) of {step.size} move" in texts
        assert (
            f"{necessary} ({necessary / step.size:.2%}) had to move,"
            f" {disruption} ({disruption / step.size:.2%}) is disruption"
        ) in texts


def test_of_a_large_table_as_many_buckets_are_shown_as_can_be_seen() -> None:
    steps, figure = drawn(scenario([300_000], parse_members("1-3"), [parse_event("-3")]))
    for axes in figure.axes[:3]:
        (image,) = axes.images
        assert "every 5th" in axes.get_title()
        assert 60_000 < image.get_size()[0] * image.get_size()[1] <= 1.01 * plot._MOST_CELLS
    assert cells(figure.axes[2], 4) == [
        colours_of(scenario([5], parse_members("1-3"), ()))[owner]
        for owner in steps[0].owners[:20:5]
    ]


def test_few_members_have_colours_of_their_own_and_of_many_those_that_it_is_about() -> None:
    few = colours_of(scenario([100], parse_members("1-7"), [parse_event("+8")]))
    assert len(set(few.values())) == 8
    many = colours_of(
        scenario(
            [100],
            parse_members("1-60"),
            [parse_event("-7"), parse_event("+61-62"), parse_event("7-8:2")][:2],
        )
    )
    assert many[61] == many[62] != many[7]
    others = [colour for member, colour in many.items() if member not in (7, 61, 62)]
    assert all(
        darker[2] < lighter[2] or darker[0] < lighter[0] for darker, lighter in pairwise(others)
    )
    assert not {many[7], many[61]} & set(others)


@given(scenarios())
@settings(deadline=None, max_examples=50)
def test_flows_fill_the_shares_above_and_below_without_a_gap(asked: Scenario) -> None:
    for step in evaluate(asked):
        ribbons = drawing._ribbons(
            step.flows, drawing._starts(step.former_shares), drawing._starts(step.shares)
        )
        assert {ribbon.flow: ribbon.width for ribbon in ribbons} == step.flows
        for starts in (
            sorted((ribbon.above, ribbon.width) for ribbon in ribbons),
            sorted((ribbon.below, ribbon.width) for ribbon in ribbons),
        ):
            assert [start for start, _width in starts] == [
                0,
                *accumulate(width for _start, width in starts),
            ][:-1]
        for ribbon in ribbons:
            outline = ribbon.outline()
            assert outline[0] == (ribbon.above, 1)
            assert outline[-1] == (ribbon.above + ribbon.width, 1)
            assert (ribbon.below, 0) in outline


@pytest.mark.parametrize(
    ("size", "members", "events"),
    [(1, "1", ["1:2"]), (1030, "1-1024", ["1:1000"]), (12, "1,2-12:0", ["2:1"])],
)
def test_the_smallest_and_the_widest_are_drawn(size: int, members: str, events: list[str]) -> None:
    _steps, figure = drawn(scenario([size], parse_members(members), map(parse_event, events)))
    data = io.BytesIO()
    figure.savefig(data, format="png")
    assert data.getvalue().startswith(b"\x89PNG")
