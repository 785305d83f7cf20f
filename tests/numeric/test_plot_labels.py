"""Labels beside the ends of lines: which fit there, where they stand, and what a legend says instead."""

from dataclasses import replace

import numpy as np
import pytest

from icltheory.errors import InvalidInput
from numeric.plot import Figure, Series, SideBySide
from numeric.plot_labels import _broken, _spread
from numeric.plot_style import COLORS, color, dashes, marker, sheet, text_color

X = (1, 10, 100)


def make(*levels, points=(), **options):
    lines = [Series(f"d = {i}, limit", X, [y] * 3, color=i) for i, y in enumerate(levels)]
    return Figure("Risk", "n", "risk", "", tuple(lines), tuple(points), logy=False, **options)


def points(levels, label="d = {}, prompts", colors=None):
    hues = range(len(levels)) if colors is None else colors
    return [Series(label.format(c), X, [y] * 3, color=c) for c, y in zip(hues, levels, strict=True)]


def legend(ax):
    found = ax.get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


def direct(ax):
    return {text.get_text(): text for text in ax.texts}


def test_few_lines_apart_are_labelled_at_their_ends_in_their_colours():
    ax = make(0, 1, 2).draw()
    found = direct(ax)
    assert list(found) == [f"d = {i}, limit" for i in range(3)]
    assert not legend(ax)
    ax.figure.canvas.draw()
    for i, text in enumerate(found.values()):
        assert text.get_color() == text_color(i)
        assert text.xy == (100, i)
        box = text.get_window_extent()
        assert box.x0 > ax.transData.transform((100, i))[0]
        assert (box.y0 + box.y1) / 2 == pytest.approx(ax.transData.transform((100, i))[1], abs=2)
        assert box.x1 <= ax.figure.bbox.width


def test_what_all_labels_share_is_said_once():
    ax = make(0, 1, 2, points=points((0, 1, 2))).draw()
    assert list(direct(ax)) == ["d = 0", "d = 1", "d = 2"]
    assert legend(ax) == ["limit", "prompts"]
    marks = ax.get_legend().legend_handles[1]
    assert marks is not None
    # Points that belong to no line of their colour keep their own label.
    other = points((0, 1), "e = {}, prompts")
    ax = make(0, 1, points=other).draw()
    assert list(direct(ax)) == ["d = 0, limit", "d = 1, limit"]
    assert legend(ax) == ["e = 0, prompts", "e = 1, prompts"]


def test_a_label_of_the_first_points_alone_is_that_of_all():
    measured = [replace(s, label="" if s.color else "trained") for s in points((0, 1))]
    assert legend(make(0, 1, points=measured).draw()) == ["trained"]
    ax = make(0, 1, points=measured, labels="legend").draw()
    assert legend(ax) == ["d = 0, limit", "d = 1, limit", "trained"]
    assert len(ax.get_legend().legend_handles) == 3
    # In another order it is the label of its own points.
    ax = make(0, 1, points=measured[::-1]).draw()
    assert legend(ax) == ["trained"]


def test_points_alone_are_labelled_at_the_last_one():
    ax = make(points=points((0, 1, 2))).draw()
    assert list(direct(ax)) == [f"d = {i}, prompts" for i in range(3)]
    assert not legend(ax)


@pytest.mark.parametrize(
    "figure",
    [
        make(1, 1, 3),  # two ends at the same place
        make(*np.linspace(0, 1, 7)),  # many
        make(1),  # nothing to tell apart
        replace(make(0, 1), lines=(Series("one", X, X), Series("two", (1, 2), (1, 2), color=1))),
        replace(make(0, 1), lines=(*make(0).lines, Series("a b c d e f g " * 6, X, X, color=1))),
    ],
)
def test_a_legend_where_labels_find_no_room(figure):
    ax = figure.draw()
    assert not ax.texts
    found = [label.replace("\n", " ") for label in legend(ax)]
    assert found == [line.label.strip() for line in figure.lines]
    forced = replace(figure, labels="direct").draw()
    assert len(forced.texts) == len(figure.lines)
    assert not legend(forced)


def test_labels_never_overlap():
    ax = make(1, 1.001, 1.002, 1, 5, labels="direct").draw()
    ax.figure.canvas.draw()
    boxes = sorted((t.get_window_extent() for t in ax.texts), key=lambda box: box.y0)
    # The extent of text with a leader is that of both.
    assert len({t.xyann[1] for t in ax.texts}) >= 4
    assert len(boxes) == 5


@pytest.mark.parametrize("seed", range(5))
def test_the_spread_is_the_nearest_without_overlap(seed):
    rng = np.random.default_rng(seed)
    wanted, heights = np.sort(rng.uniform(0, 60, 6)), rng.uniform(8, 20, 6)
    found = _spread(wanted, heights, -1e9, 1e9)
    gaps = (heights[1:] + heights[:-1]) / 2
    assert np.all(np.diff(found) >= gaps - 1e-9)
    for _ in range(300):  # no allowed place is nearer
        other = found + rng.normal(size=6) * rng.choice([0.01, 0.1, 1, 10])
        if np.all(np.diff(other) >= gaps):
            assert np.sum((other - wanted) ** 2) >= np.sum((found - wanted) ** 2) - 1e-9
    low = _spread(wanted, heights, 30, 1e9)
    assert low[0] >= 30
    assert np.all(np.diff(low) >= gaps - 1e-9)


def test_long_labels_break_behind_a_comma():
    assert _broken("two heads, skip, y + u.x") == "two heads, skip,\ny + u.x"
    assert _broken("Newton from the identity") == "Newton from the\nidentity"
    assert _broken("one head, local") == "one head, local"


def test_a_legend_covers_no_line():
    x = np.linspace(0, 1, 200)
    full = tuple(Series(f"wave {k}", x, np.sin(90 * x) + k / 9, color=k) for k in range(8))
    ax = Figure("", "x", "y", "", full, (), False, False).draw()
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1
    free = Figure("", "x", "y", "", tuple(replace(s, y=s.x) for s in full), (), False, False).draw()
    assert free.get_legend().get_window_extent().x1 <= free.get_window_extent().x1


def test_labels_are_one_of_three_words():
    for labels in ("left", None, 3):
        with pytest.raises(InvalidInput, match="'auto', 'direct', 'legend'"):
            make(1, labels=labels)


def test_series_of_one_colour_differ_and_text_is_readable():
    count = 2 * len(COLORS)
    assert len({(color(i), marker(i)) for i in range(count)}) == count
    lines = tuple(Series(str(i), X, [i + 1] * 3, color=i) for i in range(count))
    drawn = Figure("", "", "", "", lines, ()).draw().lines
    assert len({(line.get_color(), str(line.get_linestyle())) for line in drawn}) == count
    assert dashes(0) != dashes(1)
    for i in range(len(COLORS)):
        light = [z / 12.92 if z <= 0.04045 else ((z + 0.055) / 1.055) ** 2.4 for z in text_color(i)]
        luminance = np.dot(light, (0.2126, 0.7152, 0.0722))
        assert 1.05 / (luminance + 0.05) > 4.5  # on white
        assert (luminance + 0.05) / (0.0084 + 0.05) > 3  # on the dark page of the report


@pytest.mark.parametrize("suffix", [".pdf", ".svg", ".png"])
def test_figures_save_themselves_with_text_that_can_be_edited(tmp_path, suffix):
    for figure in (make(0, 1), SideBySide(make(0, 1), make(2, 3))):
        data = figure.save(tmp_path / f"figure{suffix}").read_bytes()
        if suffix == ".svg":
            assert b">d = 0, limit</text>" in data
        if suffix == ".pdf":
            assert b"/FontFile2" in data  # TrueType, embedded
            assert b"/Type3" not in data
    with pytest.raises(InvalidInput, match="cannot be written"):
        make(0).save(tmp_path / "missing" / f"figure{suffix}")


def test_figures_draw_into_given_axes():
    (ax,) = sheet()
    assert make(0, 1).draw(ax) is ax
    assert len(SideBySide(make(0, 1), make(0, 1)).draw()) == 2


def test_counts_have_whole_ticks_with_points_side_by_side():
    for shift, whole in ((0.2, True), (0.3, False)):
        beside = [Series(str(s), (1 + s, 2 + s, 3 + s), X) for s in (-shift, shift)]
        ax = Figure("", "", "", "", (), tuple(beside), logx=False).draw()
        assert all(float(x).is_integer() for x in ax.get_xticks()) == whole
    small = Figure("", "", "", "", (Series("", (0, 0.1, 0.2), X),), (), logx=False).draw()
    assert len([x for x in small.get_xticks() if 0 <= x <= 0.2]) > 2
