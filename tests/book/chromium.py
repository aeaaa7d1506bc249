"""Chromium for the browser tests. As a script: get one if there is none, and print where it is."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

#: A browser as readers have it.
WHOLE = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser", "chrome")
#: The same engine without a window, a tab strip and all that serves them: it opens a page with half the work.
SHELL = ("chromium-headless-shell", "chrome-headless-shell")

#: Headless, silent, and blind to every host but this one: a page that asks the net for anything fails its test.
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]


def find(names: tuple[str, ...] = SHELL + WHOLE) -> str | None:
    """The path of a Chromium that starts: the system's, the first of `names` that it has, or else one that Playwright has fetched.

    Call it before Playwright is started: it may have to ask Playwright where its own is.
    """
    for path in map(shutil.which, names):
        if path and _starts(path):
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() and _starts(path) else None


def _starts(path: str) -> bool:
    """Ubuntu's package of the name may be a stub that only asks for a snap."""
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _become_root() -> list[str] | None:
    """The words that go before a command that needs root; None where that cannot be."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    return None


def fetch() -> None:
    """Install Chromium by apt where it may, and by Playwright's own download elsewhere."""
    root = _become_root()
    apt = root is not None and shutil.which("apt-get")
    ubuntu = platform.system() == "Linux" and platform.freedesktop_os_release().get("ID") == "ubuntu"  # snaps only
    if apt and not ubuntu:
        subprocess.run([*root, "apt-get", "update", "-q"])
        for package in ("chromium-headless-shell", "chromium"):  # Debian before 13 may not have the first
            subprocess.run([*root, "apt-get", "install", "-y", "-q", "--no-install-recommends", package])
            if find():
                return
    with_libraries = ["--with-deps"] if apt else []
    subprocess.run([sys.executable, "-m", "playwright", "install", *with_libraries, "chromium"])


def main() -> int:
    path = find()
    if not path:
        fetch()
        path = find()
    if not path:
        print("Chromium is missing, and neither apt nor Playwright could fetch it: install chromium", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
