"""How heavy, fast and right is the live page?

    python -m vit_tutorial.benchmarks.live_page [--repeats N]

Runs in a checkout, with node and Chromium. Bytes are those of all files of the stand-alone page,
each compressed by gzip. A pass, with all attention maps, is timed in the browser after a warm-up.
"Ready on a phone" is the time from the request of the page until its first answer, served over
9 Mbit/s with 60 ms of latency to a CPU slowed four times. Median and fastest are given, of all
passes and of N visits: on a machine with other work the fastest is the least disturbed. Drawings
come from tests/drawings.py with seed 0; differences are those from PyTorch's logits and attention
maps over 200 of scikit-learn's digits. The record is replaced.
"""

import gzip
import http.server
import json
import os
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vit_tutorial import from_checkpoint
from vit_tutorial.benchmarks import record as records
from vit_tutorial.data import load
from vit_tutorial.train import evaluate

RECORD = records.FOLDER / "live_page.json"
LIVE = records.ROOT / "book" / "_live"
SCRIPTS = ("vit-engine.js", "vit-parts.js", "vit-live.js", "vit-weights.js")
FILES = ("live.html", "vit-live.css", *SCRIPTS)
COUNT = 200  # drawings, and images
PHONE = {"latency": 60, "downloadThroughput": 9e6 / 8, "uploadThroughput": 9e6 / 8}
TIME = """() => {
  const { model, image } = document.querySelector(".vit-live").vit, times = [];
  for (let i = 0; i < 130; i++) {
    const start = performance.now();
    model.forward(image);
    times.push(performance.now() - start);
  }
  return times.slice(30);
}"""


class Zipped(http.server.SimpleHTTPRequestHandler):
    """Serves the page's folder compressed, as a web server does."""

    def do_GET(self) -> None:
        content = gzip.compress((LIVE / self.path.lstrip("/").split("?")[0]).read_bytes(), 6)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(self.path))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def visits(repeats: int) -> dict[str, Any]:
    """Milliseconds of a pass, and seconds until the first answer on a desk and on a phone."""
    from playwright.sync_api import sync_playwright

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Zipped)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/live.html"
    passes: list[float] = []
    ready: dict[bool, list[float]] = {False: [], True: []}
    with sync_playwright() as play:
        chrome = play.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for phone in [False, True] * repeats:
            page = chrome.new_context().new_page()  # an empty cache
            if phone:
                devtools = page.context.new_cdp_session(page)
                devtools.send("Network.enable")
                devtools.send("Network.emulateNetworkConditions", {"offline": False, **PHONE})
                devtools.send("Emulation.setCPUThrottlingRate", {"rate": 4})
            page.goto(address)
            page.wait_for_selector(".vit-live[data-ready]")
            told = page.locator(".vit-live").get_attribute("data-ready")
            ready[phone].append(float(told or "nan") / 1000)
            if not phone:
                passes += page.evaluate(TIME)
            page.context.close()
        chrome.close()
    server.shutdown()
    return {
        "ms a pass": round(statistics.median(passes), 2),
        "ms a pass, fastest": round(min(passes), 2),
        "ready, s": round(statistics.median(ready[False]), 2),
        "ready on a phone, s": round(statistics.median(ready[True]), 2),
        "ready on a phone, fastest, s": round(min(ready[True]), 2),
        "load average": round(os.getloadavg()[0], 1),
    }


def engine(**ask: Any) -> np.ndarray:
    """What the page's engine computes in node."""
    with tempfile.TemporaryDirectory() as folder:
        if "images" in ask:
            ask["images"].numpy().tofile(Path(folder, "in.bin"))
            ask["images"] = str(Path(folder, "in.bin"))
        ask["out"] = str(Path(folder, "out.bin"))
        command = ["node", str(records.ROOT / "tests" / "run_engine.js"), str(LIVE)]
        subprocess.run(command, input=json.dumps(ask), text=True, check=True, capture_output=True)
        return np.fromfile(ask["out"], "<f4").reshape(COUNT, -1)


@torch.no_grad()
def numbers() -> dict[str, Any]:
    """The largest differences from PyTorch, drawings read, and accuracies."""
    drawings = runpy.run_path(str(records.ROOT / "tests" / "drawings.py"))["drawings"]
    model, preparation = from_checkpoint("mnist-int8")
    images = load("digits").test.images[:COUNT].float() / 255
    ready, found = preparation.normalise(images), torch.from_numpy(engine(images=images))
    logits, maps = model(ready), model.attention_maps(ready).flatten(1)
    made = drawings(COUNT, seed=0)
    answers = engine(strokes=[strokes for _, strokes in made])[:, -10:].argmax(1)
    mnist = load("mnist")
    ink = (mnist.train.images.float() / 255).sum(dim=(1, 2, 3))
    layers, K = model.config.layers, model.config.classes
    difference: Callable[..., float] = lambda a, b: float((a - b).abs().max())  # noqa: E731
    return {
        "images": COUNT,
        "largest difference of a logit": difference(
            found[:, (layers - 1) * K : layers * K], logits
        ),
        "largest difference of a map": difference(found[:, layers * K :], maps),
        "drawings": COUNT,
        "drawings right": int(sum(a == digit for a, (digit, _) in zip(answers, made, strict=True))),
        "test_accuracy": evaluate(model, mnist.test).accuracy,
        "ink of 999 in 1,000 training images": round(float(torch.quantile(ink, 0.999)), 1),
    }


def main() -> int:
    """Measure, print and record."""
    args = records.repeated(__doc__ or "", RECORD, 7).parse_args()
    record = records.start(
        args.out, {"repeats": args.repeats, "phone": PHONE, "cpu, times": 4}, anew=True
    )
    sizes = {name: len(gzip.compress((LIVE / name).read_bytes(), 6)) for name in FILES}
    run = {"bytes": sum(sizes.values()), "files": sizes, **visits(args.repeats), **numbers()}
    record["runs"].append(run)
    records.keep(args.out, record)
    print(*(f"{name} {value}" for name, value in run.items()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
