"""What a page of the book weighs over the wire, by kind of file.

    .venv/bin/python benchmarks/page_weight.py [--all]

Serves _build/html gzipped, as a static host would, opens each page that shows an explorable (with --all, every page)
in Chromium with an empty cache, and adds up the bytes received for it, headers included. The recording travels inside
the page: its share is what the page's gzipped size would lose without it. Ends with an error past the budget.
"""

from __future__ import annotations

import argparse
import gzip
import re
import sys
from collections import Counter
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from book import chromium  # noqa: E402
from book.conftest import SITE, Visit, serve  # noqa: E402

BUDGET = 1_200_000
RECORDING_BUDGET = 150_000
RECORDING = re.compile(rb'<script[^>]*class="vilib-recording"[^>]*>.*?</script>', re.S)
COLUMNS = ("html", "recording", "js", "css", "fonts", "images", "other", "total")
KINDS = {"Document": "html", "Script": "js", "Stylesheet": "css", "Font": "fonts", "Image": "images"}


def recording_share(page: bytes) -> int:
    """Bytes of the gzipped page that are its recordings'."""
    return len(gzip.compress(page, 6)) - len(gzip.compress(RECORDING.sub(b"", page), 6))


def weigh(browser, address: str) -> Counter:
    """Bytes received, by kind, for one visit with an empty cache, scrolled to its end."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    devtools = context.new_cdp_session(page)
    kinds, weights = {}, Counter()
    devtools.on("Network.responseReceived", lambda e: kinds.update({e["requestId"]: e["type"]}))
    devtools.on(
        "Network.loadingFinished",
        lambda e: weights.update({KINDS.get(kinds.get(e["requestId"]), "other"): int(e["encodedDataLength"])}),
    )
    devtools.send("Network.enable")
    devtools.send("Network.setCacheDisabled", {"cacheDisabled": True})
    page.goto(address)
    Visit(page).settle()
    context.close()
    return weights


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="pages without an explorable too")
    everything = parser.parse_args().all
    pages = {
        path.relative_to(SITE).as_posix(): path.read_bytes()
        for path in sorted(SITE.rglob("*.html"))
        if "_static" not in path.parts and (everything or b'class="vilib-explorable' in path.read_bytes())
    }
    if not pages:
        print(f"no page to weigh in {SITE}: make book", file=sys.stderr)
        return 1
    path = chromium.find()
    if not path:
        print("Chromium is missing: tests/book/chromium.py fetches one", file=sys.stderr)
        return 1
    heavy = []
    print("| page | " + " | ".join(COLUMNS) + " |\n|---|" + "---:|" * len(COLUMNS))
    server = serve(SITE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=chromium.ARGUMENTS)
        for name, content in pages.items():
            weights = weigh(browser, f"http://127.0.0.1:{server.server_port}/{name}")
            weights["total"] = sum(weights.values())
            weights["recording"] = recording_share(content)
            weights["html"] -= weights["recording"]
            print(f"| {name} | " + " | ".join(f"{weights[column] / 1000:.1f} kB" for column in COLUMNS) + " |")
            if weights["total"] > BUDGET or weights["recording"] > RECORDING_BUDGET:
                heavy.append(name)
        browser.close()
    server.shutdown()
    if heavy:
        print(f"over the budget of {BUDGET} bytes, {RECORDING_BUDGET} of them the recording: {', '.join(heavy)}")
    return bool(heavy)


if __name__ == "__main__":
    sys.exit(main())
