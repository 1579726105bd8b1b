"""The page: self-contained, complete, and drawn without errors by a browser where there is one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from benchmark_fakes import FakeExecutor, make_plan
from PIL import Image

from hetcache.benchmark.cells import Store
from hetcache.benchmark.document import make_document
from hetcache.benchmark.page import benchmark_html
from hetcache.benchmark.runner import run_plan
from hetcache.core.tokens import TokenClasses
from hetcache.core.vocabulary import Grid, TokenPlan
from hetcache.report.page import Page, render
from hetcache.report.plots import Point, frontier, pareto_html
from hetcache.report.text import breakable
from hetcache.report.timeline import Timeline, branch_timelines, timelines_html
from hetcache.report.tokens import pack_rows, token_map
from hetcache.report.viewer import MAX_TILE_WIDTH, even, tile

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
WATCH = """<script>
addEventListener("error", event => { document.body.dataset.error = event.message; });
</script>"""
MEASURE = """<script>
setInterval(() => {
  document.body.dataset.overflow = document.documentElement.scrollWidth - innerWidth;
  document.body.dataset.video = [...document.querySelectorAll("[data-frame-name]")].map(o => o.textContent).join("|");
  document.body.dataset.tokens = document.querySelector("[data-computed-counts]").textContent;
}, 100);
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    pytest.importorskip("matplotlib", reason="the report's plot needs matplotlib: pip install matplotlib")
    folder = tmp_path_factory.mktemp("page")
    plan, store = make_plan(folder, seeds=(0,)), Store(folder)
    run_plan(plan, store, FakeExecutor(store, fails=("teacache",)), "one", lambda event: None)
    document = make_document(plan, store, "tiny", "bash x --modes '</script>'", date(2026, 1, 2))
    return benchmark_html(document, plan, store)


def test_the_page_asks_for_nothing_outside_itself(page):
    outside = re.findall(r'(?:src|href)="(?!data:)([^"]*)"|url\((?!data:|#)', page)
    assert outside == []
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_the_page_holds_every_part(page):
    for text in (
        "Methods",
        "Quality against time",
        "Side by side",
        "Steps",
        "Tokens",
        "Environment",
        "Commands",
        "teacache ran out of luck",
        "fake cpu",
        "<i>inference.py</i> <i>--mode</i> <i>hetcache</i>",
        "data:video/mp4",
        "data:image/svg+xml",
    ):
        assert text in page
    for method in ("baseline", "teacache", "hetcache", "steps:hetcache"):
        assert f"<th>{breakable(method)}" in page


def test_text_cannot_leave_its_element(page):
    assert "&lt;/script&gt;" in page
    assert page.count("<script") == page.count("</script>")
    for text in re.findall(r'<script type="application/json">(.*?)</script>', page, re.S):
        json.loads(text)


def test_empty_parts_are_left_out():
    page = render(Page("nothing", "at all"))
    assert "<section" not in page
    assert "<h1>nothing</h1>" in page


def test_timelines_are_as_high_as_the_work_and_split_where_branches_differ():
    steps = [
        {
            "step": i,
            "timestep": 1.0,
            "branch": branch,
            "compute": compute,
            "reason": "r",
            "signal": None,
            "threshold": None,
            "tokens": 1,
            "flops": flops,
            "blocks": {},
        }
        for branch in ("cond", "uncond")
        for i, (compute, flops) in enumerate([("full", 10), ("partial", 5)])
    ]
    record = {"steps": steps, "flops": {"uncached": 40}, "decisions": {"cond": "FP", "uncond": "FP"}}
    assert [line.note for line in branch_timelines("x", record)] == ["1F 1P"]
    html = timelines_html(branch_timelines("x", record))
    assert 'class="partial" x="500.00" y="20.00"' in html
    record["decisions"] = {"cond": "FP", "uncond": "FF"}
    assert [line.name for line in branch_timelines("x", record)] == ["x (cond)", "x (uncond)"]
    assert timelines_html([Timeline("<b>", "", [], 0.0)]).count("<b>") == 0


def test_the_frontier_holds_what_nothing_beats():
    points = [
        Point(name, s, s, s, db)
        for name, s, db in (("slow", 9, 40), ("beaten", 8, 30), ("good", 5, 35), ("fast", 2, 20), ("worse", 3, 20))
    ]
    assert [point.name for point in frontier(points)] == ["fast", "good", "slow"]


def test_a_plot_of_nothing_is_nothing():
    assert pareto_html([], 1.0) == ""


def test_points_in_one_place_are_drawn():
    pytest.importorskip("matplotlib")
    html = pareto_html([Point("a", 1, 1, 1, 30, "ours"), Point("b", 1, 0.5, 2, 30), Point("c", 1, 1, 1, 30)], None)
    assert html.count("data:image/svg+xml") == 2


def test_token_rows_are_packed_one_bit_a_token():
    import base64

    import torch

    plan = TokenPlan(torch.tensor([0, 2, 9]), 12, 1, 1, 1)
    bits = np.unpackbits(np.frombuffer(base64.b64decode(pack_rows(plan)), np.uint8))[:12]
    assert bits.tolist() == [1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0]
    classes = TokenClasses(Grid(1, 3, 4), torch.tensor([5]), torch.tensor([1, 4]), torch.tensor([0, 2, 3]))
    tokens = token_map(classes, {3: plan})
    assert tokens["grid"] == [1, 3, 4]
    assert tokens["labels"][:6] == "010012"
    assert list(tokens["rows"]) == ["3"]


def test_videos_are_tiles_of_one_of_even_size():
    videos = [np.full((2, 10, 12, 3), value, np.uint8) for value in (10, 20, 30)]
    mosaic, columns = tile(videos)
    assert mosaic.shape == (2, 20, 24, 3)
    assert columns == 2
    assert mosaic[0, 15, 3, 0] == 30
    assert mosaic[0, 3, 15, 0] == 20
    assert even(np.zeros((1, 31, 33, 3), np.uint8)).shape == (1, 32, 32, 3)
    wide = even(np.zeros((1, 480, 832, 3), np.uint8))
    assert wide.shape[2] <= MAX_TILE_WIDTH


@NEEDS_CHROMIUM
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_draws_the_page_without_errors(page, width, tmp_path):
    file, frame = tmp_path / "page.html", tmp_path / "frame.html"
    file.write_text(page.replace("<body>", "<body>" + WATCH).replace("</body>", MEASURE + "</body>"))
    # Chromium's window cannot be as narrow as a phone, a frame in it can.
    frame.write_text(
        f'<body style="margin:0"><iframe src="page.html" style="border:0;width:{width}px;height:4000px"></iframe>'
        '<script>setInterval(() => { const inner = document.querySelector("iframe").contentDocument;'
        "if (inner && inner.body) Object.assign(document.body.dataset, inner.body.dataset); }, 100);</script>"
    )
    picture = tmp_path / "page.png"
    common = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--hide-scrollbars",
        "--disable-background-networking",
        "--allow-file-access-from-files",
        f"--window-size={width + 120},4000",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=4000",
    ]
    url = frame.as_uri()
    dom = subprocess.run([*common, "--dump-dom", url], capture_output=True, text=True, timeout=120).stdout
    seen = dict(re.findall(r'data-(\w+)="([^"]*)"', dom.split("<iframe")[0]))
    assert "error" not in seen
    assert seen["overflow"] == "0"
    assert "1 / 5" in seen["video"]
    assert "of 12 tokens" in seen["tokens"]
    subprocess.run([*common, f"--screenshot={picture}", url], capture_output=True, timeout=120, check=True)
    image = np.asarray(Image.open(picture).convert("RGB"))[:, :width]
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 500


SCRUB = """<script>
const root = document.querySelector("[data-viewer]"), scrub = root.querySelector("[data-scrub]");
const drawn = () => [...root.querySelectorAll("canvas")].slice(0, 5).map(canvas =>
  canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.reduce((sum, value) => sum + value, 0));
const until = test => new Promise(done => { const timer = setInterval(() => {
  if (test()) { clearInterval(timer); done(); } }, 50); });
(async () => {
  await until(() => drawn()[2] > 0);
  const first = drawn();
  scrub.value = 3;
  scrub.dispatchEvent(new Event("input"));
  await until(() => Math.abs(drawn()[2] - first[2]) > 0.1 * first[2]);
  const now = drawn();
  const close = (a, b) => Math.abs(a - b) < 0.02 * a;
  document.body.dataset.same = close(now[2], now[3]) && close(now[2], now[4]) && !close(now[2], first[2]);
  document.body.dataset.frame = root.querySelector("[data-frame-name]").textContent;
  fetch("/done");
})();
</script><img src="/held">"""


class Held(BaseHTTPRequestHandler):
    """Serves the page and holds its last image back until the page's script has finished: the browser's load event,
    after which it prints the document, waits for it."""

    page = b""
    done = threading.Event()

    def do_GET(self):
        if self.path == "/held":
            self.done.wait(45)
        elif self.path == "/done":
            self.done.set()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.page if self.path == "/" else b"")

    def log_message(self, format, *args):
        pass


@NEEDS_CHROMIUM
def test_scrubbing_moves_all_videos_to_the_same_frame(page, tmp_path):
    # The fake methods all give the same frames, so panels in step show the same picture.
    Held.page = page.replace("</body>", SCRUB + "</body>").encode()
    Held.done.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Held)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        dom = subprocess.run(
            [
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--dump-dom",
                "--disable-background-networking",
                f"--user-data-dir={tmp_path / 'profile'}",
                f"http://127.0.0.1:{server.server_port}/",
            ],
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout
    finally:
        server.shutdown()
    seen = dict(re.findall(r'data-(\w+)="([^"]*)"', re.search(r"<body[^>]*>", dom).group()))
    assert seen == {"same": "true", "frame": "4 / 5"}
