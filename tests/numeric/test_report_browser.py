"""The report in a real browser: nothing sticks out, nothing is loaded, every formula is drawn."""

import contextlib
import html
import json
import re
import shutil
import subprocess
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest
import test_runner as fakes

from numeric.claims.runner import Outcome, load_claims, run
from numeric.report import build

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")

_QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"

# Every element that is wider than the page, unless it lies in a box that scrolls.
MEASURE = """
const all = [...document.body.querySelectorAll('*')];
const scrolls = e => e && (getComputedStyle(e).overflowX === 'auto' || scrolls(e.parentElement));
const wide = all.filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e));
const boxes = [...document.querySelectorAll('math')].filter(m => !m.closest('details:not([open])'));
const colour = getComputedStyle(document.body);
return {
  width: innerWidth, page: document.documentElement.scrollWidth,
  wide: wide.slice(0, 3).map(e => e.outerHTML.slice(0, 80)),
  formulas: boxes.length, flat: boxes.filter(m => m.getBoundingClientRect().height < 8).length,
  errors: document.querySelectorAll('merror').length,
  loaded: performance.getEntriesByType('resource').map(e => e.name),
  headings: [...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => +h.tagName[1]),
  figures: [...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect().width),
  colours: [colour.color, colour.backgroundColor],
};
"""


_PROFILE = {"ignore_cleanup_errors": True}


@contextlib.contextmanager
def served(folder):
    """A folder at an address of this machine: what a page loads from files, browsers do not record."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *unused):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def measured(page, width, *options):
    """What the browser sees in a frame of `width` pixels; `page` stays as it is on the disk."""
    # The policy of the page forbids scripts, also this one; loading is measured without it.
    text = page.read_text()
    policy = re.search(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", text)
    assert policy is not None
    copy = page.with_name("copy.html")
    copy.write_text(text.replace(policy[0], ""))
    wrapper = page.with_name("wrapper.html")
    wrapper.write_text(
        f"<!DOCTYPE html><body><iframe src='copy.html' style='width:{width}px;height:900px;border:0'>"
        "</iframe><pre id='out'></pre><script>onload = () => { const frame = frames[0];"
        f"const measure = new frame.Function({json.dumps(MEASURE)});"
        "document.getElementById('out').textContent = JSON.stringify(measure()); }</script>"
    )
    with served(page.parent) as address, tempfile.TemporaryDirectory(**_PROFILE) as profile:
        flags = [*_QUIET, _NO_NETWORK, *options, f"--user-data-dir={profile}", "--dump-dom"]
        command = [BROWSER, *flags, f"{address}/wrapper.html"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = re.search(r"<pre id=\"out\">(.*?)</pre>", done.stdout, re.DOTALL)
    assert found is not None, done.stderr
    return json.loads(html.unescape(found[1]))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Real claims of all papers with their formulas, and results with tables and figures."""
    folder = tmp_path_factory.mktemp("report")
    kinds = {"first": fakes.agreeing, "second": fakes.deviating, "third": fakes.blurred}
    claims = {name: fakes.fake(name, kind, folder) for name, kind in kinds.items()}
    outcomes = run(claims.values(), fakes.EFFORT, folder / "out", jobs=1).outcomes
    real = load_claims()
    outcomes.update({name: Outcome(name) for name in list(real)[::4]})
    return build(outcomes, {**real, **claims}, folder / "report.html")


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_and_is_whole(page, width):
    seen = measured(page, width)
    assert seen["width"] == width
    assert seen["page"] <= width
    assert seen["wide"] == []
    assert seen["loaded"] == []
    assert seen["formulas"] > 20
    assert (seen["flat"], seen["errors"]) == (0, 0)
    assert seen["headings"][0] == 1
    assert all(b - a <= 1 for a, b in pairwise(seen["headings"]))
    assert len(seen["figures"]) == 3
    # On a phone a figure keeps the width at which its labels can be read, and scrolls in its box.
    assert all(max(480, 0.85 * min(width, 704)) <= drawn <= 704 for drawn in seen["figures"])


def test_the_dark_page_is_dark(page):
    def light(colour):
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    for options, dark in (((), False), (("--blink-settings=preferredColorScheme=0",), True)):
        ink, paper = measured(page, 390, *options)["colours"]
        assert (light(ink) > light(paper)) is dark
        assert abs(light(ink) - light(paper)) > 150


def test_what_sticks_out_or_is_loaded_would_be_seen(page):
    bad = page.with_name("bad.html")
    page.with_name("dot.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"></svg>')
    wide = '<main><p style="width:900px">x</p><img src="dot.svg">'
    bad.write_text(page.read_text().replace("<main>", wide))
    seen = measured(bad, 390)
    assert seen["page"] > 390
    assert len(seen["wide"]) >= 1
    assert any("dot.svg" in name for name in seen["loaded"])
