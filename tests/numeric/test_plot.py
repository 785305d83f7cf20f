"""Figures: what is drawn, SVG that can share a page, files that are whole, and no global state."""

import re
from dataclasses import asdict, replace
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from icltheory.errors import InvalidInput
from numeric.plot import Figure, Series, SideBySide, draw, save, to_svg, write_atomically

LINES = (
    Series("one head, predicted", (10.0, 100.0, 1000.0), (0.6, 0.15, 0.018)),
    Series("one head, 19.16/n", (30.0, 1000.0), (0.64, 0.019)),
)
POINTS = (
    Series("one head, trained", (20.0, 80.0), (0.43, 0.18), (0.01, 0.005), 0),
    Series("two heads & <more>", (20.0, 80.0), (0.24, 0.07), (0.01, 0.005), 1),
)
FIGURE = Figure("One head & two", "prompt length n", "risk", "What is seen.", LINES, POINTS)


def test_lines_points_and_error_bars_are_where_the_data_is():
    ax = draw(FIGURE)
    first = ax.lines[0]
    assert tuple(first.get_xdata()) == LINES[0].x
    assert tuple(first.get_ydata()) == LINES[0].y
    assert first.get_color() != draw(replace(FIGURE, lines=(POINTS[1],))).lines[0].get_color()
    points = [c for c in ax.containers if c.get_label() == "one head, trained"]
    (bars,) = points[0].lines[2]
    heights = [(segment[1][1] - segment[0][1]) / 2 for segment in bars.get_segments()]
    assert heights == pytest.approx(POINTS[0].error, rel=1e-12)
    assert heights != pytest.approx([1.03 * e for e in POINTS[0].error], rel=1e-12)


def test_lines_of_one_colour_differ_in_their_dashes():
    first, second = draw(FIGURE).lines[:2]
    assert first.get_color() == second.get_color()
    assert first.get_linestyle() != second.get_linestyle()


@pytest.mark.parametrize(("logx", "logy"), [(True, True), (False, False), (True, False)])
def test_scales_labels_and_legend(logx, logy):
    ax = draw(replace(FIGURE, logx=logx, logy=logy))
    assert ax.get_xscale() == ("log" if logx else "linear")
    assert ax.get_yscale() == ("log" if logy else "linear")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("prompt length n", "risk")
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == [s.label for s in (*LINES, *POINTS)]


def test_log_ticks_are_plain_numbers():
    ax = draw(FIGURE)
    ax.figure.canvas.draw()
    shown = {label.get_text() for label in ax.get_xticklabels()}
    assert {"10", "100", "1000"} <= shown
    wide = Series("", (1.0, 1e9), (1.0, 1e-9))
    ax = draw(replace(FIGURE, lines=(wide,), points=()))
    ax.figure.canvas.draw()
    assert "1e+06" in {label.get_text() for label in ax.get_xticklabels()}


def test_counts_have_whole_ticks():
    layers = Series("", (2, 3, 4, 5, 6), (1, 2, 3, 4, 5))
    for shift, whole in ((0, True), (0.5, False)):
        moved = replace(layers, x=[x + shift for x in layers.x])
        ax = draw(Figure("", "", "", "", (), (moved,), logx=False, logy=False))
        assert all(float(x).is_integer() for x in ax.get_xticks()) == whole


def test_given_axes_are_used_and_nothing_global_changes():
    from matplotlib import pyplot as plt

    before, numbers = dict(mpl.rcParams), plt.get_fignums()
    draw(FIGURE)
    to_svg(FIGURE)
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == numbers
    sheet, ax = plt.subplots()
    assert draw(FIGURE, ax) is ax
    plt.close(sheet)


def test_an_empty_figure_draws():
    assert draw(replace(FIGURE, lines=(), points=())).get_legend() is None


def test_figures_survive_the_way_through_a_dict():
    assert Figure.from_dict(asdict(FIGURE)) == FIGURE


def test_series_take_arrays_and_refuse_unequal_lengths():
    x = np.array([1, 2])
    assert Series("", x, x / 4, 0.1 * x) == Series("", (1.0, 2.0), (0.25, 0.5), (0.1, 0.2))
    for y, error in ((x[:1], ()), (x, x[:1])):
        with pytest.raises(InvalidInput, match=r"2 x, . y and . errors"):
            Series("", x, y, error)


def test_a_notebook_shows_the_figures_above_their_captions(monkeypatch):
    pages = []
    monkeypatch.setattr("numeric.plot.to_png", lambda page: pages.append(page) or b"")
    caption = "What is seen, in more words than one line of text below the figure can hold. " * 2
    for shown, axes in ((FIGURE, 1), (SideBySide(FIGURE, replace(FIGURE, caption=caption)), 2)):
        _, how = shown._repr_png_()
        page = pages.pop()
        assert len(page.axes) == axes
        assert how["alt"].startswith("One head & two. What is seen.")
        page.canvas.draw()
        for ax in page.axes:
            (text,) = ax.texts
            inside = text.get_window_extent()
            assert inside.y0 > 0  # not cut off
            assert inside.x1 < page.bbox.width
            assert inside.y1 < ax.xaxis.label.get_window_extent().y0
    with pytest.raises(InvalidInput, match="at least one"):
        SideBySide()


def test_pictures_of_a_notebook_are_small():
    data, how = FIGURE._repr_png_()
    assert data.startswith(b"\x89PNG")
    assert len(data) < 50_000
    assert how["width"] == 614


def ids(svg):
    return re.findall(r'\bid="([^"]*)"', svg)


def test_svg_parses_and_two_of_them_fit_in_one_page():
    svg = to_svg(FIGURE)
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("aria-label") == "One head & two"
    assert root.get("viewBox")
    assert root.get("width") is None
    assert svg == to_svg(FIGURE)
    other = to_svg(FIGURE, "other-")
    both = ids(svg) + ids(other)
    assert len(both) == len(set(both)) > 20
    # Every reference points to an id of the same SVG.
    for text in (svg, other):
        targets = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', text)
        assert targets
        assert {a or b for a, b in targets} <= set(ids(text))


def test_svg_takes_the_colour_of_the_page_and_loads_nothing():
    svg = to_svg(FIGURE)
    assert "currentColor" in svg
    assert "1b1c1d" not in svg.lower()
    assert "<style" not in svg
    assert not re.search(r'(href|src)="(?!#)', svg)
    assert "two heads &amp; &lt;more&gt;" in svg


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_save_writes_the_format_of_the_suffix(tmp_path, suffix, start):
    path = save(FIGURE, tmp_path / f"curve{suffix}")
    first = path.read_bytes()
    assert first.startswith(start)
    assert save(FIGURE, path).read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_save_refuses_another_suffix(tmp_path):
    with pytest.raises(InvalidInput, match=r"does not end in one of \.png, \.svg, \.pdf"):
        save(FIGURE, tmp_path / "curve.bmp")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "table.csv"
    write_atomically(path, "old")
    folder = tmp_path / "folder"
    (folder / "inside").mkdir(parents=True)
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_atomically(folder, "new")
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_atomically(tmp_path / "missing" / "table.csv", "new")
    assert path.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "table.csv"]
