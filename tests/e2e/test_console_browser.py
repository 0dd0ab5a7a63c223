"""The console in a real browser: what a person sees, what a hostile record cannot do, and that a keyboard is enough.

Needs Chromium: `chromium`, `chromium-browser` or `google-chrome` on the PATH, or the path in CHROMIUM. Without one all of it is
skipped with that reason. The browser is driven over its DevTools pipe, so no driver and no package is needed.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamlet.broker import Broker

CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe", "--hide-scrollbars"),
)
PATIENCE_S = 30

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="the console is not tested in a browser: no Chromium on the PATH, nor in CHROMIUM"),
]


class Browser:
    """Chromium with one page, over the DevTools protocol: JSON messages that end in a zero byte, on two pipes."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # The protocol's pipes are descriptors 3 and 4 of the browser; first out of the way, if they are among them now.
        high_in, high_out = fcntl.fcntl(theirs_in, fcntl.F_DUPFD, 10), fcntl.fcntl(theirs_out, fcntl.F_DUPFD, 10)

        launch = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
        self._process = subprocess.Popen(
            [sys.executable, "-c", launch, str(high_in), str(high_out), CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(high_in, high_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for descriptor in (theirs_in, theirs_out, high_in, high_out):
            os.close(descriptor)
        self._buffer = b""
        self._last_id = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        pages = self.send("Target.getTargets")["targetInfos"]
        page = next(page["targetId"] for page in pages if page["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command's answer. Events that come before it are kept."""
        self._last_id += 1
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last_id:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            if "method" in answer:
                self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], PATIENCE_S)
            assert ready, "the browser is silent"
            piece = os.read(self._in, 1 << 20)
            assert piece, "the browser has gone"
            self._buffer += piece
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        return message

    def run(self, script: str) -> Any:
        """What an expression comes to; promises are waited for."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, (script, answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until an expression is true: looked at whenever the page has changed."""
        found = self.run(
            f"""new Promise((done) => {{
                const holds = () => {{ try {{ return Boolean({condition}); }} catch {{ return false; }} }};
                if (holds()) return done(true);
                const watch = new MutationObserver(() => {{ if (holds()) {{ watch.disconnect(); done(true); }} }});
                watch.observe(document, {{ subtree: true, childList: true, attributes: true, characterData: true }});
                setTimeout(() => {{ watch.disconnect(); done(holds()); }}, {PATIENCE_S * 500});
            }})"""
        )
        assert found, (condition, self.run("document.body.innerText"))

    def open(self, url: str) -> None:
        """Load a page, and wait for the first tick to be shown."""
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=url)
        self.until("document.querySelector('.uptime')")

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        """The window, in CSS pixels."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=width < 500)

    def scheme(self, name: str) -> None:
        """What the system prefers: dark or light."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def press(self, key: str) -> None:
        """One key, as a keyboard sends it."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowRight": 39, "ArrowDown": 40, " ": 32}
        more: dict[str, Any] = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=codes.get(key, ord(key[0].upper())), **more)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=codes.get(key, ord(key[0].upper())))

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.send("Input.insertText", text=text)

    def picture(self, path: Path) -> None:
        """What is seen, as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def complaints(self) -> list[str]:
        """What the console of the browser says in red: errors, refused resources, thrown exceptions."""
        self.run("1")
        bad = []
        for event in self.events:
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                bad.append(str(params["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
                bad.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in {"error", "assert"}:
                bad.append(str(params["args"]))
        return bad

    def requested(self) -> set[str]:
        """Every address that was asked."""
        self.run("1")
        return {event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"}

    def close(self) -> None:
        """End it."""
        try:
            self._session = None
            self.send("Browser.close")
        finally:
            try:
                self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            os.close(self._in)
            os.close(self._out)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker.in_thread(console=True, streams={"orders": 2}) as running:
        yield running


@pytest.fixture
def page(browser: Browser, broker: Broker) -> Browser:
    """The console as it opens, wide and light, on a broker of its own."""
    browser.resize(1280, 900)
    browser.scheme("light")
    browser.open(broker.endpoint_url + "/")
    browser.events.clear()
    return browser


def put(broker: Broker, key: str, data: bytes) -> None:
    broker.call("PutRecord", StreamName="orders", PartitionKey=key, Data=base64.b64encode(data).decode())


def click(page: Browser, selector: str, text: str = "") -> None:
    """The first element of a selector that holds a text."""
    page.until(f"[...document.querySelectorAll({json.dumps(selector)})].some((e) => e.innerText.includes({json.dumps(text)}))")
    page.run(f"[...document.querySelectorAll({json.dumps(selector)})].find((e) => e.innerText.includes({json.dumps(text)})).click()")


def test_it_loads_quietly_and_from_here_alone(browser: Browser, broker: Broker) -> None:
    """No complaint in the browser's console, nothing asked of any other host, nothing missing."""
    browser.events.clear()
    browser.open(broker.endpoint_url + "/")
    browser.until("document.body.innerText.includes('No records yet')")
    assert browser.complaints() == []
    asked = {url for url in browser.requested() if not url.startswith(("about:", "data:"))}
    assert len(asked) > 5
    assert {url for url in asked if not url.startswith(broker.endpoint_url + "/")} == set()


HOSTILE = "<script>document.hacked = 1</script><img src=x onerror='document.hacked = 1'><svg onload='document.hacked = 1'>"


def test_a_hostile_record_is_text_and_runs_nothing(page: Browser, broker: Broker) -> None:
    """In the list, opened, and in an aggregate's view: markup in key and payload is shown as it was written."""
    put(broker, HOSTILE, HOSTILE.encode())
    put(broker, "javascript:alert(1)", json.dumps({HOSTILE: [HOSTILE]}).encode())
    click(page, ".filters button", "Refresh")
    page.until("document.querySelectorAll('ul.rows li').length === 2")
    for number in range(2):
        page.run(f"document.querySelectorAll('button.rec')[{number}].click()")
        page.until("document.querySelector('.detail pre')?.innerText.includes('<script>')")
    assert page.run("document.querySelector('main').innerText.includes(\"<img src=x onerror='document.hacked = 1'>\")")
    assert page.run("document.querySelectorAll('main script, main img, main svg[onload]').length") == 0
    assert page.run("document.hacked") is None
    assert page.complaints() == []


def test_the_policy_stands_even_if_markup_got_in(page: Browser) -> None:
    """What would run or leak if escaping had failed: the browser refuses script, handlers, text as HTML, and other hosts."""
    page.run(
        """(() => {
            window.violated = [];
            document.addEventListener("securitypolicyviolation", (event) => violated.push(event.effectiveDirective));
            const script = document.createElement("script");
            try { script.textContent = "document.hacked = 1"; } catch { /* refused as text already */ }
            document.body.append(script);
            const button = document.createElement("button");
            try { button.setAttribute("onclick", "document.hacked = 1"); } catch { /* refused as an attribute */ }
            document.body.append(button);
            button.click();
            document.body.append(Object.assign(new Image(), { src: "http://127.0.0.1:1/leak" }));
            fetch("http://127.0.0.1:1/leak").catch(() => {});
            try { document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='document.hacked = 1'>"); } catch { /* refused */ }
        })()"""
    )
    refused = page.run("new Promise((done) => setTimeout(() => done(violated), 50))")
    assert {"require-trusted-types-for", "connect-src", "img-src"} <= set(refused)
    assert page.run("document.hacked") is None


def test_put_a_record_and_see_it(page: Browser, broker: Broker) -> None:
    """By the dialog; it is in the list, and opens as JSON laid out."""
    click(page, ".title button", "Put a record")
    page.until("document.querySelector('dialog[open] textarea')")
    click(page, "dialog button", "JSON")
    page.run("document.querySelector('dialog [name=key]').select()")
    page.type("grace")
    page.run("document.querySelector('dialog textarea').focus()")
    page.type('{"id": ')
    click(page, "dialog button", "Put")
    page.until("document.querySelector('dialog [role=alert]')?.innerText.includes('not JSON')")
    page.run("document.querySelector('dialog textarea').select()")
    page.type('{"id": 12345678901234567890}')
    click(page, "dialog [type=submit]")
    page.until("!document.querySelector('dialog')")
    click(page, "button.rec", "grace")
    page.until("document.querySelector('.detail pre')?.innerText.includes('\\n  \"id\": 12345678901234567890')")
    shards = broker.call("ListShards", StreamName="orders")["Shards"]
    assert len(shards) == 2
    assert page.complaints() == []


def test_split_and_merge_and_see_the_lineage(page: Browser, broker: Broker) -> None:
    """Each reshard is drawn: closed parents above their children, the hash range across."""
    click(page, "[role=tab]", "Shards")
    page.until("document.querySelectorAll('g.shard').length === 2")
    click(page, "td button", "Split")
    page.until("document.querySelector('dialog[open]')?.innerText.includes('50 %')")
    click(page, "dialog [type=submit]")
    page.until("document.querySelectorAll('g.shard').length === 4")
    assert page.run("[...document.querySelectorAll('g.shard')].map((g) => g.classList.contains('closed'))") == [True, False, False, False]
    box = "[...document.querySelectorAll('g.shard rect')].map((r) => ['x', 'y', 'width'].map((n) => Number(r.getAttribute(n))))"
    parent, other, lower, upper = page.run(box)
    assert lower[1] == upper[1] > parent[1] == other[1]
    assert lower[0] == pytest.approx(parent[0], abs=1)
    assert upper[0] == pytest.approx(parent[0] + parent[2] / 2, abs=3)
    assert lower[2] + upper[2] == pytest.approx(parent[2], abs=5)
    # 2 is the lower child: its only neighbour is the upper one.
    page.run("document.querySelector('[aria-label=\"Merge shard 2\"]').click()")
    page.until("document.querySelector('dialog[open] select')")
    click(page, "dialog [type=submit]")
    page.until("document.querySelectorAll('g.shard').length === 5")
    assert page.run("document.querySelectorAll('g.shard')[4].getAttribute('aria-label')").endswith("from 2 and 3")
    found = broker.call("ListShards", StreamName="orders")["Shards"]
    assert [shard["ShardId"][-1] for shard in found if "EndingSequenceNumber" not in shard["SequenceNumberRange"]] == ["1", "4"]
    assert page.complaints() == []


def test_a_keyboard_is_enough(page: Browser, broker: Broker) -> None:
    """Shortcuts, tabs by arrows, rows by arrows, dialogs that hold the focus and give it back; and the focus is seen."""
    put(broker, "first", b"one")
    put(broker, "second", b"two")
    page.press("?")
    page.until("document.querySelector('dialog[open]')?.innerText.includes('put a record')")
    page.press("Escape")
    page.until("!document.querySelector('dialog')")
    page.press("2")
    page.until("document.querySelector('[role=tab][aria-selected=true]').id === 'tab-shards'")
    page.press("1")
    page.until("document.querySelectorAll('button.rec').length === 2")
    # Everything that can be done is reached by Tab, and looks like it.
    names: list[str] = []
    page.run("document.activeElement.blur()")
    for _ in range(60):
        page.press("Tab")
        name = page.run("(document.activeElement.innerText || document.activeElement.getAttribute('aria-label') || '').trim()")
        if page.run("document.activeElement === document.body"):
            break
        names.append(name)
        if page.run("document.activeElement.matches('button, a') && getComputedStyle(document.activeElement).outlineStyle"):
            assert page.run("getComputedStyle(document.activeElement).outlineStyle") != "none", name
    said = "\n".join(names)
    for wanted in (
        "To the content",
        "Create",
        "orders",
        "Faults",
        "Put a record",
        "Delete",
        "Records",
        "Search keys",
        "Live",
        "Refresh",
        "second",
    ):
        assert wanted in said, (wanted, names)
    assert "Consumers" not in said  # one tab stop for all tabs: arrows go between them
    page.run("document.getElementById('tab-records').focus()")
    page.press("ArrowRight")
    page.until("document.activeElement.id === 'tab-shards' && document.querySelector('[role=tab][aria-selected=true]').id === 'tab-shards'")
    page.press("1")
    page.until("document.querySelectorAll('button.rec').length === 2")
    page.run("document.querySelector('button.rec').focus()")
    page.press("ArrowDown")
    page.press("Enter")
    page.until(
        "document.querySelectorAll('button.rec')[1].getAttribute('aria-expanded') === 'true' && document.querySelector('.detail pre')"
    )
    page.press("/")
    page.until("document.activeElement.id === 'search'")
    page.type("tw")
    page.until("document.querySelectorAll('button.rec').length === 1")
    page.run("document.activeElement.blur()")
    page.press("p")
    page.until("document.activeElement.name === 'key'")
    page.press("Escape")
    page.press("n")
    page.until("document.activeElement.name === 'name'")
    page.type("by-keyboard")
    page.press("Enter")
    page.until("document.querySelector('h1')?.innerText.includes('by-keyboard')")
    assert page.complaints() == []


@pytest.mark.parametrize("view", ["#/", "#/s///orders", "#/s///orders/shards", "#/s///orders/consumers", "#/faults"])
def test_a_small_screen_needs_no_sideways_scrolling(page: Browser, broker: Broker, view: str) -> None:
    """At 360 pixels, with long names and keys, in every view."""
    broker.create_stream("a-stream-with-quite-a-long-name-of-the-kind-that-infrastructure-tools-make-up-by-themselves", 1)
    broker.split_shard("orders", 0)
    put(broker, "k" * 200, b"x" * 500)
    page.resize(360, 740)
    page.run(f"location.hash = {json.dumps(view)}")
    page.until("document.querySelector('main h1')")
    if view == "#/s///orders":
        click(page, "button.rec")
        page.until("document.querySelector('.detail pre')")
    assert page.run("document.documentElement.scrollWidth") <= 360
    assert page.complaints() == []


def test_dark_and_light(page: Browser, broker: Broker) -> None:
    """By the system, by the switch, and the switch is remembered; text stands out in both."""
    brightness = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number).reduce((a, b) => a + b)"
    contrast = """(() => {
        const light = (text) => { const [r, g, b] = text.match(/[0-9]+/g).map((n) => { n /= 255; return n <= .04045 ? n / 12.92 : ((n + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
        const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(c)) return c; } return "rgb(255,255,255)"; };
        return [...document.querySelectorAll("h1, p, a, button:not(:disabled), th, td, .soft, .badge, dd, pre")].filter((e) => e.innerText && e.checkVisibility()).map((e) => {
            const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
            return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.className + " " + e.innerText.slice(0, 30)];
        }).sort((a, b) => a[0] - b[0])[0];
    })()"""  # noqa: E501
    put(broker, "k", b"{}")
    page.run("localStorage.removeItem('streamlet-theme')")
    for scheme, dark in (("light", False), ("dark", True)):
        page.scheme(scheme)
        page.open(broker.endpoint_url + "/#/s///orders")
        click(page, "button.rec")
        page.until("document.querySelector('.detail pre')")
        assert (page.run(brightness) < 300) is dark
        worst, where = page.run(contrast)
        assert worst >= 4.5, where
    page.press("t")
    assert page.run(brightness) > 300
    page.open(broker.endpoint_url + "/")
    assert page.run(brightness) > 300
    page.run("localStorage.removeItem('streamlet-theme')")


def test_nothing_moves_when_numbers_do(page: Browser, broker: Broker) -> None:
    """Ticks with ever more records: whatever shows a number, and what stands beside it, stays where it is."""
    put(broker, "k", b"1")
    click(page, ".filters button", "Refresh")
    page.until("document.querySelectorAll('button.rec').length === 1")
    places = """[...document.querySelectorAll(".facts span, .stat, .plot, [role=tab], .filters > *, .rec > span, nav.side a")]
        .map((e) => e.getBoundingClientRect()).map((box) => [Math.round(box.x), Math.round(box.y)])"""
    before = page.run(places)
    stored = 1
    for count in (10, 100, 800):
        for _ in range(count):
            put(broker, "k", b"x" * 100)
        stored += count
        page.until(f"document.querySelector('#tab-records .count').innerText === '{stored:,}'")
        page.until("!document.querySelector('.stat b').innerText.startsWith('0')")
        assert page.run(places) == before
    assert len(before) > 20


def test_a_broker_that_goes_and_comes_back_is_told(browser: Browser, broker: Broker) -> None:
    """The page says so when the broker has gone, and does not go blank."""
    with Broker.in_thread(console=True, streams={"gone": 1}) as other:
        browser.open(other.endpoint_url + "/")
        browser.until("document.querySelector('h1')?.innerText.includes('gone')")
    browser.until("document.querySelector('[role=alert]')?.innerText.includes('does not answer')")
    assert browser.run("document.querySelector('h1').innerText.includes('gone')")


def test_faults_by_hand(page: Browser, broker: Broker) -> None:
    """Switch one on, see it strike, switch it off."""
    page.press("f")
    page.until("document.querySelector('#kind')")
    page.run("document.querySelector('[name=operation]').value = 'PutRecord'")
    page.run("document.querySelector('[name=times]').value = '3'")
    click(page, "button[type=submit]", "Switch on")
    page.until("document.querySelector('tbody')?.innerText.includes('throttle')")
    (standing,) = broker.faults.list()
    assert (standing.left, type(standing.fault).__name__) == (3, "Throttle")
    click(page, "tbody button", "Off")
    page.until("document.body.innerText.includes('Nothing goes wrong')")
    assert broker.faults.list() == ()
    assert page.complaints() == []
