"""How long a reader waits between a hand's move and the picture's.

    .venv/bin/python benchmarks/latency.py [--no-lab]

(a) the first move: from the start of a page's navigation over http, with an empty cache, to the first frame after an
    input event that is sent the moment the explorable says it is ready. Median of five visits.
(b) a redraw in the static page: the time in the script, and from the event to the frame the browser shows.
(c) live in JupyterLab: from the event to the frame the browser shows, with the kernel's answer in between.
(d) frames a second while `fit-race` plays.

Serves _build/html as `make serve` does; JupyterLab serves a notebook of its own. Ends with an error past a budget.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from book import chromium  # noqa: E402
from book.conftest import SITE  # noqa: E402
from book.hands import Hands, all_ready  # noqa: E402
from book.lab import Notebook, jupyter_lab, write_notebook  # noqa: E402

FIRST_MOVE, REDRAW, LIVE, RATE = 700, 8, 60, 60  # milliseconds, and frames a second

#: Runs in the page from its first moment: moves the first slider once it may, and notes when that is drawn.
FIRST = """
const seen = new MutationObserver(() => {
  const root = document.querySelector("figure.vilib-explorable[data-ready=true]");
  if (!root) return;
  seen.disconnect();
  const frame = Number(root.dataset.frame), slider = root.querySelector("input[type=range]");
  slider.value = slider.valueAsNumber === Number(slider.max) ? 0 : Number(slider.max);
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  const drawn = () => Number(root.dataset.frame) > frame
    ? requestAnimationFrame(() => { window.movedAt = performance.now(); }) : requestAnimationFrame(drawn);
  drawn();
});
seen.observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-ready"] });
"""

#: Moves one control to each value in turn; for each, what the script took and what it took until a new frame is shown.
MOVES = """async (root, { name, values, live }) => {
  const control = root.vilibView.control(name), took = [];
  const shown = () => new Promise((done) => requestAnimationFrame(() => { // this runs before the paint, a message after
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => done(performance.now());
    port2.postMessage(0);
  }));
  for (const value of values) {
    const next = new Promise((done) => { // polling would wait in steps of the timer's own 4 ms
      const seen = new MutationObserver(() => { seen.disconnect(); done(); });
      seen.observe(root, { attributes: true, attributeFilter: ["data-frame"] });
    });
    const start = performance.now();
    if (control.kind === "noise") root.querySelector(`button[name=${name}]`).click();
    else {
      const node = root.querySelector(`[name=${name}]`), box = control.kind === "switches";
      if (box) node.click();
      else {
        node.value = control.kind === "slider" ? control.values.indexOf(value) : value;
        node.dispatchEvent(new Event(control.kind === "choice" ? "change" : "input", { bubbles: true }));
      }
    }
    await next;
    const drawn = performance.now();
    took.push([Number(root.dataset.drawMs), await shown() - start, drawn - start]);
    if (live) await new Promise((done) => setTimeout(done, 30)); // a hand is not that fast
  }
  return took;
}"""

#: Plays from the start; the time between two frames, in milliseconds.
PLAY = """(root) => new Promise((done) => {
  const button = root.querySelector("button[name=play]"), times = [];
  let frame = root.dataset.frame;
  const tick = (now) => {
    if (root.dataset.frame !== frame) times.push(now);
    frame = root.dataset.frame;
    if (button.getAttribute("aria-pressed") === "true") requestAnimationFrame(tick);
    else done(times.slice(1).map((t, i) => t - times[i]));
  };
  button.click();
  requestAnimationFrame(tick);
})"""


def places(control: dict, now) -> list:
    """Every value of a control, so that no move leaves it where it stands."""
    kind = control["kind"]
    if kind == "slider":
        values = control["values"]
    elif kind == "choice":
        values = [key for key, _ in control["options"]]
    else:
        values = list(range({"switches": 6}.get(kind) or control["count"]))
    if len(values) < 2:
        return []
    values = values * max(1, 6 // len(values))
    return values[1:] if str(values[0]) == str(now) else values


def moves(hands: Hands, live: bool = False) -> dict[str, list[list[float]]]:
    found = {}
    for control in hands.spec["controls"]:
        values = places(control, hands.values()[control["name"]])
        if values:
            found[control["name"]] = hands.root.evaluate(
                MOVES, {"name": control["name"], "values": values, "live": live}
            )
    return found


def opened(browser, address: str, moves: bool = True) -> tuple[float, float]:
    """Milliseconds from navigation until something of the page is seen (First Contentful Paint), and until its first slider,
    moved as soon as it may be, is answered (nan where there is none)."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    if moves:
        page.add_init_script(FIRST)
    context.new_cdp_session(page).send("Network.setCacheDisabled", {"cacheDisabled": True})
    page.goto(address, wait_until="commit")
    page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length")
    if moves:
        page.wait_for_function("() => window.movedAt")
    seen, answered = page.evaluate("() => [performance.getEntriesByName('first-contentful-paint')[0].startTime, window.movedAt ?? null]")
    context.close()
    return seen, math.nan if answered is None else answered


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A static server in a process of its own; its address."""
    command = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(folder), "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield f"http://127.0.0.1:{re.search(r'port ([0-9]+)', server.stdout.readline()).group(1)}"
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-lab", action="store_true", help="leave (c) out")
    with_lab = not parser.parse_args().no_lab
    pages = [
        p.relative_to(SITE).as_posix()
        for p in sorted(SITE.rglob("*.html"))
        if "_static" not in p.parts and b'class="vilib-explorable' in p.read_bytes()
    ]
    path = chromium.find(chromium.WHOLE + chromium.SHELL)
    if not pages or not path:
        print("no book (make book) or no Chromium (tests/book/chromium.py)", file=sys.stderr)
        return 1
    over = []

    def report(what: str, value: float, budget: float, unit: str = "ms", least: bool = False) -> None:
        print(f"| {what} | {value:.1f} {unit} | {'≥' if least else '≤'} {budget} {unit} |")
        if value < budget * 0.95 if least else value > budget:
            over.append(what)

    print("| what | measured | budget |\n|---|---:|---:|")
    with served(SITE) as site, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=chromium.ARGUMENTS)
        for name in pages:
            times = [opened(browser, f"{site}/{name}") for _ in range(6)][1:]
            report(f"(a) first move answered after navigation, {name}", median(t for _, t in times), FIRST_MOVE)
        for name in pages:
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(f"{site}/{name}")
            for hands in all_ready(page):
                found = [move for each in moves(hands).values() for move in each]
                report(f"(b) redraw, {hands.name} in {name}: script", median(m[0] for m in found), REDRAW)
                clocked = median(m[1] for m in found)
                print(
                    f"| (b) redraw, {hands.name} in {name}: event to shown, with the frame clock | {clocked:.1f} ms | |"
                )
                if any(c["kind"] == "play" for c in hands.spec["controls"]):
                    gaps = hands.root.evaluate(PLAY)
                    report(
                        f"(d) playing {hands.name} in {name}",
                        1000 * len(gaps) / sum(gaps),
                        RATE,
                        "frames/s",
                        least=True,
                    )
            page.close()
        if with_lab:
            with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as home:
                write_notebook(
                    Path(folder) / "live.ipynb",
                    "from vilib.explorables.gallery import fit_race, gradient_variance\ngradient_variance()",
                    "fit_race()",
                )
                with jupyter_lab(Path(folder), Path(home)) as address:
                    page = browser.new_page(viewport={"width": 1400, "height": 1000})
                    page.goto(f"{address}/lab/tree/live.ipynb?reset")
                    all_moves = []
                    for hands in Notebook(page).run_all():
                        clocked = {}
                        for control, took in moves(hands, live=True).items():
                            clocked[control] = [m[1] for m in took]
                            what = f"(c) live, {hands.name}, {control}: event to shown"
                            print(f"| {what} | {median(clocked[control]):.1f} ms | |")
                        viewed = {c["name"] for c in hands.spec["controls"] if c["kind"] in ("switches", "play")}
                        all_moves += [ms for name, each in clocked.items() if name not in viewed for ms in each]
                    report("(c) live, every move that Python answers: event to shown", median(all_moves), LIVE)
                    page.close()
        browser.close()
    for what in over:
        print(f"over budget: {what}", file=sys.stderr)
    return bool(over)


if __name__ == "__main__":
    sys.exit(main())
