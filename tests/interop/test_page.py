"""The page at ``/`` in a real browser, on a server with traffic.

Screenshots go to the directory ``LARDER_SCREENSHOTS``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import stock
from support.browser import Browser
from support.process import ServerProcess, eventually
from support.stock import Worker, fresh_request

pytestmark = pytest.mark.ours

WIDE = (1360, 900)
PHONE = (390, 800)

# The page polls every 2 s, and a busy machine draws slowly.
SHOWN_S = 60.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all; it opens another page in each test."""
    with Browser() as started:
        yield started


@pytest.fixture
def look(browser: Browser, tmp_path: Path) -> Callable[[str], None]:
    """Save a screenshot."""
    folder = Path(os.environ.get("LARDER_SCREENSHOTS", tmp_path))
    return lambda name: browser.screenshot(folder / f"{name}.png")


def visit(browser: Browser, server: ServerProcess) -> str:
    """Open the page, wait for its first answer, and return its address."""
    address = f"http://127.0.0.1:{server.http_port}/"
    browser.resize(*WIDE)
    browser.prefer("light")
    browser.open("about:blank")
    browser.events.clear()
    browser.open(address)
    shows(browser, "#verdict h2", lambda title: title and title != "Asking the server", "a verdict")
    return address


def shows(browser: Browser, selector: str, accepts: Callable[[str | None], Any], expected: str) -> None:
    seen: list[str | None] = [None]

    def there() -> Any:
        seen[0] = browser.text(selector)
        return accepts(seen[0])

    try:
        eventually(there, expected, timeout_s=SHOWN_S, every_s=0.1)
    except AssertionError as error:
        raise AssertionError(f"{selector} shows {seen[0]!r}") from error


def traffic(client: Any, prompts: int) -> Worker:
    """Store every prompt and look it up twice; look up one more that misses."""
    worker = Worker(client, "org/model <b>7B</b>").register()
    for seed in range(prompts):
        tokens = stock.prompt(70_000 + seed)
        worker.store(tokens)
        for _ in range(2):
            request = fresh_request()
            worker.lookup(tokens, request)
            worker.retrieve(tokens, request)
            worker.end(request)
    assert worker.hit(stock.prompt(80_000)) == 0
    return worker


def test_page_shows_the_status(start: Any, browser: Browser, look: Any, tmp_path: Path) -> None:
    adapter = json.dumps({"type": "fs", "base_path": str(tmp_path / "l2"), "max_capacity_gb": 1})
    server = start(flags=("--eviction-policy", "adaptive", "--l2-adapter", adapter))
    visit(browser, server)
    client = stock.stock_client(server.url)
    worker = traffic(client, 10)
    status = json.loads(server.http("/status").body)
    assert browser.text("#verdict h2") == "Healthy"
    hits, l1 = status["hit_stats"], status["storage_manager"]["l1_manager"]
    assert hits["total_tokens"] == 21 * 64, "as many as were looked up"
    rate = f"{100 * hits['hit_rate']:.1f} % of {hits['total_tokens']:,} tokens"
    shows(browser, '[data-foot="hits"]', lambda text: text == f"Since the start {rate}", rate)
    # The page was open during all of it.
    shows(browser, '[data-reading="hits/all"]', lambda text: text == f"{100 * hits['hit_rate']:.1f} %", rate)
    objects = f"{l1['total_object_count']} objects, 0 held"
    shows(browser, '[data-foot="memory"]', lambda text: text.endswith(objects), objects)
    filled = f"{100 * l1['memory_usage_ratio']:.1f} %"
    shows(browser, '[data-reading="memory/l1"]', lambda text: text == filled, filled)
    eventually(lambda: server.metric("lmcache_mp_l2_objects") == 40, "all objects in L2")
    shows(browser, "#adapters", lambda text: "works" in text and "\t40\t" in text, "40 objects in L2")
    shows(browser, "#operations", lambda text: "lookup\t" in text and "commit_retrieve" in text, "operations")
    shows(browser, "#policies", lambda text: "adaptive" in text and "rules" in text, "the active policy")
    # A name that a client chose is shown as text.
    shows(browser, "#workers", lambda text: "org/model <b>7B</b>" in text and str(worker.instance) in text, "the worker")
    look("light")
    browser.prefer("dark")
    assert browser.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    look("dark")
    worker.close()
    client.close()
    assert browser.complaints() == []


def test_light_and_dark_are_readable(server: ServerProcess, browser: Browser) -> None:
    visit(browser, server)
    grounds = set()
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        grounds.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
        contrasts = browser.evaluate(CONTRASTS)
        assert len(contrasts) > 20, "texts were found"
        low = [found for found in contrasts if found["contrast"] < 4.5]
        assert not low, f"{scheme}: contrast below 4.5 (WCAG AA): {low}"
    assert len(grounds) == 2, "light and dark differ"


# The contrast of every text with the first opaque background behind it.
CONTRASTS = """
(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = channels(color).map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (channels(color)[3] !== 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = [...document.querySelectorAll("body *")].filter((element) =>
    element.checkVisibility() && [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim() !== ""));
  return texts.map((element) => {
    const style = getComputedStyle(element);
    const color = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
    const [a, b] = [light(color), light(ground(element))].sort((x, y) => y - x);
    return { text: element.textContent.slice(0, 30), contrast: (a + 0.05) / (b + 0.05) };
  });
})()
"""


def test_page_sends_only_reads_to_its_own_server(server: ServerProcess, browser: Browser) -> None:
    address = visit(browser, server)
    asked = lambda: browser.text("body") and sum("/overview" in url for url in browser.requested())  # noqa: E731
    eventually(lambda: asked() > 1, "it asks again", timeout_s=SHOWN_S)
    elsewhere = [url for url in browser.requested() if not url.startswith(address) and url != "about:blank"]
    assert elsewhere == []
    sent = [e["params"]["request"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert {request["method"] for request in sent} == {"GET"}
    assert browser.complaints() == []


def test_page_fits_a_phone(server: ServerProcess, browser: Browser, look: Any) -> None:
    visit(browser, server)
    browser.resize(*PHONE)
    eventually(lambda: browser.evaluate("document.documentElement.scrollWidth") <= PHONE[0], "nothing sticks out")
    look("phone")


def test_page_works_with_the_keyboard(server: ServerProcess, browser: Browser) -> None:
    visit(browser, server)
    client = stock.stock_client(server.url)
    traffic(client, 1).close()
    client.close()
    shows(browser, '[data-reading="hits/all"]', lambda text: text.endswith("%"), "a hit rate")
    label = "document.querySelector('svg.chart').ariaLabel"
    label_text = "Hit rate. In L1 or L2: last"
    eventually(lambda: browser.evaluate(label).startswith(label_text), label_text, timeout_s=SHOWN_S, every_s=0.1)
    browser.evaluate("document.querySelector('svg.chart').focus()")
    assert browser.text("section.card h2 small") == "last minute"
    browser.press("End")
    assert browser.text("section.card h2 small").startswith("at ")
    assert browser.evaluate("document.querySelectorAll('.chart .cursor').length") >= 4, "all charts show that moment"
    browser.press("Escape")
    assert browser.text("section.card h2 small") == "last minute"


def test_an_idle_server_and_one_without_l2(start: Any, browser: Browser, look: Any) -> None:
    visit(browser, start())
    shows(browser, "#verdict li", lambda text: text and "No worker is registered" in text, "no worker")
    assert browser.text('[data-foot="hits"]') == "No lookups yet"
    assert browser.text('[data-reading="hits/all"]') == "–"
    assert "--l2-adapter adds one" in (browser.text("#adapters") or "")
    assert browser.evaluate("[...document.querySelectorAll('#charts .absent')].length") == 2
    look("idle")
    assert browser.complaints() == []


@pytest.mark.expect_log("WARN .*L2")
def test_failing_l2_is_shown_first(start: Any, browser: Browser, look: Any, tmp_path: Path) -> None:
    folder = tmp_path / "l2"
    server = start(flags=("--l2-adapter", json.dumps({"type": "fs", "base_path": str(folder)})))
    visit(browser, server)
    shutil.rmtree(folder)
    folder.write_text("in the way")
    client = stock.stock_client(server.url)
    worker = Worker(client, stock.fresh_model()).register()
    worker.store(stock.prompt(90_000))
    shows(browser, "#verdict h2", lambda title: title == "Not ready", "the verdict")
    reasons = json.loads(server.http("/readyz").body)["reasons"]
    shows(browser, "#verdict li", lambda text: text == f"{reasons[0]}.", reasons[0])
    shows(browser, "#adapters .bad", lambda text: text is not None, "the adapter stands out")
    look("failing")
    worker.close()
    client.close()


def test_page_shows_an_outage_and_recovers(start: Any, browser: Browser, look: Any) -> None:
    server = start()
    visit(browser, server)
    server.kill()
    shows(browser, "#verdict h2", lambda title: title == "The server does not answer", "it is missed")
    shows(browser, "#verdict li", lambda text: text and text.startswith("Last heard at "), "since when")
    look("gone")
    server.start()
    shows(browser, "#verdict h2", lambda title: title == "Healthy", "it is back")
