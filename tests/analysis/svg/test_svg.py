"""Pictures: positions against hand-computed pixels, ticks, escaping, words for those who do not see them."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from vq.analysis.svg.axis import Scale, span
from vq.analysis.svg.chart import MARKS, Chart
from vq.analysis.svg.heat import HeatMap
from vq.analysis.svg.tags import clean, colour, number, ramp, short, tag


def test_scales_put_values_at_pixels():
    straight = Scale(0, 10, 100, 300)
    assert [straight(v) for v in (0, 2.5, 10, 99)] == [100, 150, 300, 300]
    powers = Scale(1, 1000, 300, 0, log=True)
    assert [powers(v) for v in (1, 10, 100, 1000)] == pytest.approx([300, 200, 100, 0])


@pytest.mark.parametrize(
    ("scale", "want"),
    [
        (Scale(0, 10, 0, 1), [0, 2, 4, 6, 8, 10]),
        (Scale(-0.3, 0.3, 0, 1), [-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3]),
        (Scale(1, 1e5, 0, 1, log=True), [1, 10, 100, 1e3, 1e4, 1e5]),
        (Scale(1, 40, 0, 1, log=True), [1, 2, 5, 10, 20]),
    ],
)
def test_ticks_are_round(scale, want):
    assert scale.ticks() == pytest.approx(want)


def test_span_leaves_out_what_no_axis_shows():
    assert span([1, None, 3, float("inf")], room=0) == (1, 3)
    assert span([2.0, 8.0], zero=True, room=0.5) == (0, 12)
    assert span([0.0, 1.0, 100.0], log=True, room=0) == (1, 100)
    for values in ([], [0.0], [5.0], [-2.0, -2.0]):
        low, high = span(values, zero=not values)
        assert low < high
    low, high = span([], log=True)
    assert 0 < low < high


def test_points_and_lines_lie_where_they_should():
    """Plot area: 74 to 474 across, 254 (y = 0) to 10 (y = 4) down."""
    chart = Chart("t", (0, 4), (0, 4), ("x", "y"), size=(490, 300))
    chart.points([1, 2, 9], [1, 4, 1], "#000000", radius=3)
    chart.line([0, 4, 4, 0], [0, 4, None, 2], "#111111")
    chart.bars([2], [2], "#222222", 1.0)
    root = ET.fromstring(chart.svg("words"))
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter("circle")]
    assert circles[:2] == [(174, 193), (274, 10)]  # the third lies outside
    assert root.find(".//polyline").get("points") == "74.0,254.0 474.0,10.0"
    assert circles[2] == (74, 132)  # what is left of the line after the gap
    (bar,) = root.iter("rect")
    box = [float(bar.get(k)) for k in ("x", "y", "width", "height")]
    assert box == [224, 132, 100, 122]


def test_cells_lie_where_they_should():
    heat = HeatMap("h", ["a", "b"], ["1", "2"], [[0.0, 1.0], [None, 2.0]], width=200)
    root = ET.fromstring(heat.svg("words"))
    cells = [r for r in root.iter("rect") if r.find("title") is not None]
    places = [(float(r.get("x")), float(r.get("y"))) for r in cells]
    left = heat.left
    want = [(left, 58), (left + heat.cell, 58), (left + heat.cell, 58 + heat.tall)]
    assert places == [pytest.approx(w, abs=0.06) for w in want]
    assert [r.get("fill") for r in cells] == [ramp(0), ramp(0.5), ramp(1)]


def test_many_cells_become_few_paths():
    values = [[float(i * 40 + j) for j in range(40)] for i in range(40)]
    names = [str(i) for i in range(40)]
    svg = HeatMap("h", names, names, values).svg("words")
    paths = ET.fromstring(svg).findall("path")
    assert sum(p.get("d").count("M") for p in paths) == 1600 and len(paths) < 60


def test_names_cannot_break_out():
    hostile = "</title><script>alert(1)</script>\x00\x1b\"'&"
    chart = Chart(hostile, (0, 1), (0, 1), (hostile, hostile), names=[hostile])
    chart.points([0.5], [0.5], "#000000", name=hostile, tips=[hostile])
    for svg in (chart.svg(hostile), HeatMap(hostile, [hostile], [hostile], [[1.0]]).svg(hostile)):
        root = ET.fromstring(svg)
        assert "<script" not in svg and not list(root.iter("script"))
        assert root.find("title").text.startswith("</title><script>")
        assert root.get("role") == "img" and root.find("desc").text
    assert tag("a", b_c=clean("x"), class_=None) == '<a b-c="x"></a>'


def test_numbers_and_colours_for_people():
    assert [number(v) for v in (None, 1234567, 0.123456, 12345.6)] == [
        "-", "1,234,567", "0.1235", "12,346"]  # fmt: skip
    assert [short(v) for v in (0.00012, 999, 65536, 2.5e6)] == ["0.00012", "999", "65.5k", "2.5M"]
    assert (
        len({colour(i, 8) for i in range(8)}) == 8 and len({colour(i, 20) for i in range(20)}) == 20
    )
    chart = Chart("t", (0, 9), (0, 9), ("x", "y"))
    for i, shape in enumerate(MARKS):
        chart.points([i], [i], "#000000", name=shape, shape=shape)
    ET.fromstring(chart.svg("words"))
