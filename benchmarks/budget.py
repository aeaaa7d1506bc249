"""What a page of the book costs a reader, beside what it may cost; the table goes into the README.

    make budget

Each page, visited with an empty cache in Chromium at 1440×900: how many requests it makes, what they weigh gzipped as a static
host would serve them, headers included, how much of that its recordings are (what the gzipped page would lose without them), when
something of it is seen first, and when the first moved slider is answered (see latency.py). Then every explorable that plays, in
the lecture view on a projector (1920×1080): frames a second. Ends with an error past a budget.
"""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path
from statistics import median

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from book import chromium  # noqa: E402
from book.conftest import SITE, Visit, serve  # noqa: E402
from book.hands import all_ready  # noqa: E402
from latency import FIRST_MOVE, PLAY, RATE, opened, served  # noqa: E402

WEIGHT, RECORDINGS, REQUESTS = 1_200_000, 250_000, 60
RECORDING = re.compile(rb'<script[^>]*class="vilib-recording"[^>]*>.*?</script>', re.S)
BEGIN, END = "<!-- budget: begin -->\n", "<!-- budget: end -->"
VISITS = 4  # the first of them warms up and does not count


def recording_share(page: bytes) -> int:
    """Bytes of the gzipped page that are its recordings'."""
    return len(gzip.compress(page, 6)) - len(gzip.compress(RECORDING.sub(b"", page), 6))


def weigh(browser, address: str) -> tuple[int, int]:
    """Requests and bytes received for one visit with an empty cache, scrolled to its end."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page, received = context.new_page(), []
    devtools = context.new_cdp_session(page)
    devtools.on("Network.loadingFinished", lambda e: received.append(int(e["encodedDataLength"])))
    devtools.send("Network.enable")
    devtools.send("Network.setCacheDisabled", {"cacheDisabled": True})
    page.goto(address)
    Visit(page).settle()
    context.close()
    return len(received), sum(received)


def frame_rates(browser, address: str) -> dict[str, float]:
    """Frames a second of each explorable of a chapter that plays, in its lecture view on a projector."""
    page = browser.new_page(viewport={"width": 1920, "height": 1080})
    page.goto(f"{address}?lecture")
    rates = {}
    for hands in all_ready(page):
        if any(control["kind"] == "play" for control in hands.spec["controls"]):
            page.evaluate("(name) => vilibLecture.show(vilibLecture.screens.findIndex((s) => s.kept.some("
                          "(n) => n.querySelector(`figure[data-explorable='${name}']`))))", hands.name)
            gaps = hands.root.evaluate(PLAY)
            rates[hands.name] = 1000 * len(gaps) / sum(gaps)
    page.close()
    return rates


def main() -> int:
    pages = sorted(p.relative_to(SITE).as_posix() for p in SITE.rglob("*.html") if not {"_static", "reports", "index.html"} & set(p.parts))
    path = chromium.find(chromium.WHOLE + chromium.SHELL)
    if not pages or not path:
        print("no book (make book) or no Chromium (tests/book/chromium.py)", file=sys.stderr)
        return 1
    rows, over = [], []

    def cell(value: float, most: float, unit: float, name: str) -> str:
        if value > most:
            over.append(f"{name}: {value:.0f}, at most {most}")
        return f"{value / unit:.0f}"

    compressed = serve(SITE)
    with served(SITE) as plain, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=chromium.ARGUMENTS)
        playing = {}
        for name in pages:
            moves = b'class="vilib-explorable' in (SITE / name).read_bytes()
            requests, weight = weigh(browser, f"http://127.0.0.1:{compressed.server_port}/{name}")
            visits = [opened(browser, f"{plain}/{name}", moves) for _ in range(VISITS)][1:]
            seen, answered = (median(times) for times in zip(*visits, strict=True))
            rows.append(
                f"| {name.removesuffix('.html').removeprefix('chapters/')} | {cell(requests, REQUESTS, 1, name)} | {cell(weight, WEIGHT, 1000, name)} kB | "
                f"{cell(recording_share((SITE / name).read_bytes()), RECORDINGS, 1000, name)} kB | {seen:.0f} ms | "
                + (f"{cell(answered, FIRST_MOVE, 1, name)} ms |" if moves else "– |")
            )
            print(rows[-1], flush=True)
            if moves and name.startswith("chapters/"):
                for explorable, rate in frame_rates(browser, f"{plain}/{name}").items():
                    playing[f"`{explorable}` in {name.removesuffix('.html').removeprefix('chapters/')}"] = rate
                    if rate < 0.95 * RATE:
                        over.append(f"{explorable} in {name}: {rate:.0f} frames a second")
        browser.close()
    compressed.shutdown()
    table = "\n".join([
        "| page | requests | over the wire | of which recordings | first seen | first slider answered |", "|---|---:|---:|---:|---:|---:|",
        f"| *at most* | *{REQUESTS}* | *{WEIGHT // 1000} kB* | *{RECORDINGS // 1000} kB* | | *{FIRST_MOVE} ms* |", *rows, "",
        f"Playing in the lecture view at 1920×1080, frames a second: {'; '.join(f'{name} {rate:.0f}' for name, rate in playing.items())}.", ""])
    readme = (ROOT / "README.md").read_text()
    before, _, rest = readme.partition(BEGIN)
    (ROOT / "README.md").write_text(before + BEGIN + table + END + rest.partition(END)[2])
    for what in over:
        print(f"over budget: {what}", file=sys.stderr)
    return bool(over)


if __name__ == "__main__":
    sys.exit(main())
