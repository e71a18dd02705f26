"""nengo_gui shows the project's Nengo networks in a real browser, and they run there.

`make test_gui` installs nengo_gui and Selenium and sets NO_SKIP: there these tests fail where these or
Debian's chromium and chromium-driver are missing; in `make test` they are skipped then. SHOTS names
a folder for pictures.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from helpers import REPOSITORY, assert_user_error, run_in

LIMIT_S = 120  # of anything that is waited for, on a busy machine
CHROME_FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "disable-dev-shm-usage"),
    *("no-first-run", "disable-background-networking", "disable-component-update"),
    *("disable-sync", "window-size=1500,950"),
)


@pytest.fixture
def installed():
    missing = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    missing += [m for m in ("nengo_gui", "selenium") if not importlib.util.find_spec(m)]
    if missing:
        message = f"no {', '.join(missing)}: see docs/installation.md"
        (pytest.fail if os.environ.get("NO_SKIP") else pytest.skip)(message)


@pytest.fixture
def browser(installed, tmp_path):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in (*CHROME_FLAGS, f"user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(f"--{flag}")
    options.binary_location = shutil.which("chromium")
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def serve(tmp_path):
    """Function (run folders) -> address of a page that nengo_gui_demo.py serves."""
    servers = []

    def start(*folders):
        command = [sys.executable, os.path.join(REPOSITORY, "nengo_gui_demo.py"), *folders]
        servers.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True))
        for line in servers[-1].stdout:
            if address := re.search(r"http://localhost:\d+/\?token=\w+", line):
                return address[0]
        raise AssertionError("nengo_gui_demo.py ended")

    yield start
    for server in servers:
        with server:  # closes its pipe
            server.terminate()


def wait_until(condition):
    end = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)
    return found


class Page:
    """A page of nengo_gui, played for 1.5 simulated seconds."""

    def __init__(self, browser, address, name):
        self._script = browser.execute_script
        browser.get(address)
        wait_until(
            lambda: self._script(
                "return !!(window.Nengo && Nengo.netgraph && document.querySelector('.graph'))"
            )
        )
        self._script("document.getElementById('pause_button').click()")
        wait_until(lambda: self._seconds() > 1)
        before = self._lines()
        wait_until(lambda: self._seconds() > 1.5)
        after = self._lines()
        assert len(before) == len(after)
        self.moving = [a != b for a, b in zip(before, after)]  # of each line of each plot
        if folder := os.environ.get("SHOTS"):
            browser.save_screenshot(os.path.join(folder, f"{name}.png"))

    def _lines(self):
        return self._script(
            "return [...document.querySelectorAll('.graph path.line')].map(p => p.getAttribute('d'))"
        )

    def _seconds(self):
        return float(self._script("return document.querySelector('#ticks_tr td').textContent") or 0)

    def labels(self):
        return self._script(
            "return [...document.querySelectorAll('.graph, .netgraph text')].map(x => x.textContent)"
        )

    def heard(self):
        """Text of the page's own plot."""
        return self._script("return document.querySelector('.htmlview').innerText")


def test_the_demo_asks_for_a_run_folder(tmp_path, installed):
    process = run_in(tmp_path, "nengo_gui_demo.py", tmp_path)
    assert_user_error(process, "expected a run folder")


def test_the_memory_runs_in_a_browser(serve, browser):
    page = Page(browser, serve(), "memory")
    assert len(page.moving) >= 4 and all(page.moving)


def test_a_trained_network_hears_in_a_browser(serve, browser, trained_run):
    page = Page(browser, serve(str(trained_run("lsnn"))), "lsnn")
    assert len(page.moving) > 39 and all(page.moving)
    text = wait_until(page.heard)
    assert text.startswith("spoken: ") and "s of speech" in text
    assert len(text.splitlines()) > 5  # the likeliest phones


def test_silent_neurons_are_noticed(serve, browser, trained_run, tmp_path):
    """The same checks do not hold where the neurons get no input."""
    folder = tmp_path / "silent"
    shutil.copytree(trained_run("lsnn"), folder)
    weights = dict(np.load(folder / "best.npz"))
    np.savez(folder / "best.npz", **weights | {"layer0/w_in": 0 * weights["layer0/w_in"]})
    page = Page(browser, serve(str(folder)), "silent")
    assert not all(page.moving)
