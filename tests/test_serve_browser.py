"""The page in a headless Chromium, against the real server with packs: upload, routes, downloads,
microphone, errors.

DUALASR_TEST_PACKS names a folder with the packs ky and ga for `micro`; without it they are trained
first. Screenshots go to DUALASR_SCREENSHOTS.
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import soundfile
from sounds import encode

from dualasr.data.espeak import Speaker, Voice

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"
    ),
]
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --use-fake-device-for-media-stream"
    " --use-fake-ui-for-media-stream"
).split()
VOICE = Voice("max", 157, 50, 55)
SENTENCES = {
    "en": "Did you remember to feed the rabbit?",
    "ky": "Дарыгер бейтаптын кан басымын өлчөдү.",
}
QUICK = ("--limit", "12", "--steps", "40")  # enough to know its language by another voice
WAIT_S = 300  # seconds, for a machine that has other things to do


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    """The folder of the packs ky and ga."""
    if given := os.environ.get("DUALASR_TEST_PACKS"):
        if not all(Path(given, name, "pack.json").is_file() for name in ("ky", "ga")):
            pytest.skip(f"DUALASR_TEST_PACKS={given} lacks the pack ky or ga")
        return Path(given)
    out = tmp_path_factory.mktemp("quickstart") / "run"
    command = [sys.executable, "-m", "dualasr", "quickstart", "--out", str(out), *QUICK]
    subprocess.run(command, check=True)
    return out / "packs"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Generated speech by language, and "long": two minutes in both."""
    folder = tmp_path_factory.mktemp("clips")
    with Speaker() as speaker:
        sounds = {code: speaker.speak(text, code, VOICE) for code, text in SENTENCES.items()}
    for name, samples in sounds.items():
        soundfile.write(folder / f"{name}.wav", samples, 16_000)
    with soundfile.SoundFile(folder / "long.wav", "w", 16_000, 1) as file:
        for code in (["en"] * 15 + ["ky"] * 12) * 2:
            file.write(sounds[code])
    (folder / "broken.wav").write_bytes(b"this is no sound")
    return folder


@pytest.fixture(scope="module")
def server(packs, tmp_path_factory):
    """The server's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "dualasr_serve", "--base", "micro", "--port", str(port)]
    command += ["--pack", str(packs / "ky"), "--pack", str(packs / "ga")]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(WAIT_S):
            assert process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"{address}/health").close()
                break
            except OSError:
                time.sleep(1)
        yield address
        assert "Traceback" not in log.read_text()
    finally:
        process.terminate()
        process.wait(30)


class Page:
    """A visitor: a browser at the page, its downloads and its screenshots."""

    def __init__(self, address, downloads, screenshots, microphone):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--use-file-for-fake-audio-capture={microphone}"):
            options.add_argument(flag)
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        self.address, self.downloads, self.screenshots = address, downloads, screenshots
        self.requested: set[str] = set()

    def visit(self, theme="light", width=1280, height=900):
        self.width = width
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(f"{self.address}/?__theme={theme}")
        self.see("#examples button", "Kyrgyz")

    def seen(self, css, text=""):
        found = self.driver.find_elements(By.CSS_SELECTOR, css)
        return [element for element in found if element.is_displayed() and text in element.text]

    def see(self, css, text=""):
        """The first visible element of this kind with this text, once it is there."""
        wait = WebDriverWait(
            self.driver, WAIT_S, ignored_exceptions=[StaleElementReferenceException]
        )
        return wait.until(lambda _: self.seen(css, text), f"no {css} with {text!r}: {self.text()}")[
            0
        ]

    def text(self):
        return self.driver.find_element(By.TAG_NAME, "body").text

    def upload(self, path):
        for clear in self.seen("#sound button[aria-label='Clear']"):
            clear.click()
        time.sleep(0.5)
        self.driver.find_element(By.CSS_SELECTOR, "#sound input[type=file]").send_keys(str(path))
        self.see("#sound button[aria-label='Clear']")

    def drop(self, path):
        """Drop a file on the page, as from a file manager."""
        script = """
            const sounds = new DataTransfer();
            sounds.items.add(new File([Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0))],
                                      arguments[1], { type: "video/x" }));
            const drop = { dataTransfer: sounds, bubbles: true, cancelable: true };
            document.querySelector("#sound input[type=file]").parentElement.dispatchEvent(
                new DragEvent("drop", drop));"""
        content = base64.b64encode(path.read_bytes()).decode()
        self.driver.execute_script(script, content, path.name)
        self.see("#sound button[aria-label='Clear']")

    def transcribe(self):
        """Press the button and wait for the end; what was there before is marked, as the end may
        come at once.
        """
        self.driver.execute_script(
            "document.querySelector('#answer .answer, #answer .box').setAttribute('data-old', '')"
        )
        self.see("#transcribe").click()
        done = "#answer:not(:has([data-old], .busy))"
        WebDriverWait(self.driver, WAIT_S).until(
            lambda _: self.seen(done) and self.seen("#stop:disabled")
        )

    def verdict(self):
        """Language and route, and why; without the bars, which name every language."""
        return self.see("#answer .verdict h3").text + " " + self.see("#answer .verdict .why").text

    def shoot(self, name):
        """A picture of the whole page."""
        time.sleep(0.5)
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {
            "x": 0,
            "y": 0,
            "width": size["width"],
            "height": min(size["height"], 4000),
            "scale": 1,
        }
        shot = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
        )
        (self.screenshots / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))
        assert size["width"] <= self.width, "wider than the screen"

    def hosts(self):
        """Every host that got a request since the start."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                url = message["params"].get("request", message["params"])["url"]
                if not url.startswith(("data:", "blob:")):
                    self.requested.add(url.split("/")[2])
        return self.requested


@pytest.fixture(scope="module")
def page(server, clips, tmp_path_factory):
    screenshots = Path(
        os.environ.get("DUALASR_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots")
    )
    screenshots.mkdir(parents=True, exist_ok=True)
    page = Page(server, tmp_path_factory.mktemp("downloads"), screenshots, clips / "ky.wav")
    yield page
    page.driver.quit()


def test_a_base_language_goes_to_the_primary_and_is_downloaded_as_subtitles(page, clips):
    page.visit()
    page.upload(clips / "en.wav")
    page.transcribe()
    assert (
        "English" in page.verdict()
        and "Whisper" in page.verdict()
        and "so Whisper kept it" in page.verdict()
    )
    assert "remember" in page.see("#answer .parts").text
    for suffix in ("srt", "vtt", "txt", "json"):
        page.see("#downloads button, #downloads a", f"Download .{suffix}").click()
    names = [f"en.{suffix}" for suffix in ("srt", "vtt", "txt", "json")]
    WebDriverWait(page.driver, 20).until(
        lambda _: all((page.downloads / name).is_file() for name in names)
    )
    assert (
        "00:00:00,0" in (page.downloads / "en.srt").read_text()
        and "remember" in (page.downloads / "en.srt").read_text()
    )
    assert json.loads((page.downloads / "en.json").read_text())["route"] == "primary"
    page.shoot("desktop-light")


def test_a_new_language_goes_to_its_pack_and_every_pipeline_is_compared(page, clips):
    page.visit("dark")
    page.upload(clips / "ky.wav")
    page.transcribe()
    assert "Kyrgyz" in page.verdict() and "Pack ky" in page.verdict()
    page.see("#compare").click()
    page.see("#comparison .card", "as Irish")
    assert [card.text.split("\n")[0] for card in page.seen("#comparison .card")] == [
        "Whisper",
        "Pack ky",
        "Pack ga",
    ]
    page.shoot("desktop-dark")


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize(("suffix", "codec"), [("webm", "libopus"), ("mkv", "flac"), ("ts", "mp2")])
def test_films_and_rare_formats_are_taken(page, clips, suffix, codec, dropped):
    pytest.importorskip("av", reason="PyAV is not installed")
    film, (sound, _) = clips / f"film.{suffix}", soundfile.read(clips / "en.wav", dtype="float32")
    form = {"webm": "matroska", "ts": "mpegts", "mkv": None}[suffix]
    encode(film, codec, [(0.0, sound)], rate=16_000, form=form, picture_s=2.0)
    page.visit()
    if dropped:
        page.drop(film)
    else:
        page.upload(film)
    page.transcribe()
    assert "English" in page.verdict() and "remember" in page.see("#answer .parts").text


def test_the_route_can_be_forced_and_the_languages_limited(page, clips):
    page.visit()
    page.upload(clips / "ky.wav")
    page.see("#route label", "Whisper").click()
    page.transcribe()
    assert "Kyrgyz" not in page.verdict() and "You chose Whisper" in page.verdict()
    page.see("#route label", "Automatic").click()
    box = page.see("#languages input")
    box.send_keys("German", Keys.ENTER, Keys.ESCAPE)
    page.transcribe()
    assert "German" in page.verdict() and "Whisper" in page.verdict()
    page.see("#route label", "Pack ky").click()
    page.see("#transcribe").click()
    page.see("#answer .error", "does not know German")
    page.shoot("error-desktop-light")


def test_examples_play_at_a_press_and_lines_play_from_their_time(page):
    page.visit()
    page.see("#examples button", "English, then Kyrgyz").click()
    assert "1 went to Whisper (English) and 1 to pack ky (Kyrgyz)" in page.verdict()
    page.seen("#answer .at")[-1].send_keys(Keys.ENTER)
    now = "return document.querySelector('#answer audio').currentTime"
    WebDriverWait(page.driver, 20).until(lambda driver: driver.execute_script(now) > 10)
    page.see("#answer .line.current")
    page.see("#answer summary", "Why pack ky?").click()
    page.see("#answer details .why", "ack ky")


def test_a_long_sound_grows_on_a_phone_and_can_be_stopped(page, clips):
    page.visit("dark", 360, 740)
    page.upload(clips / "long.wav")
    page.see("#transcribe").click()
    page.see("#answer .busy", " of ")
    page.see("#stop:enabled").click()
    page.see("#answer", "Stopped.")
    page.transcribe()
    assert "parts of the sound" in page.verdict()
    page.shoot("phone-dark-long")


def test_what_is_no_sound_is_a_sentence_and_nothing_of_the_server(page, clips):
    page.visit("light", 360, 740)
    page.upload(clips / "broken.wav")
    page.see("#transcribe").click()
    error = page.see("#answer .error").text
    assert error.startswith("broken.wav") and "/tmp" not in error and "Traceback" not in page.text()
    page.shoot("phone-light-error")


def test_the_microphone_is_transcribed(page):
    page.visit()
    page.see("#sound button[aria-label='Record audio']").click()
    page.see("#sound button.record, #sound .record-button", "Record").click()
    page.see("#sound button.stop-button, #sound button", "Stop")
    page.see("#transcribe").click()
    page.see(".toast-body", "Your recording is not here yet")
    assert "There is no sound" not in page.text()
    time.sleep(4)
    page.see("#sound button.stop-button, #sound button", "Stop").click()
    page.see("#sound button[aria-label='Clear']")
    page.transcribe()
    assert "Kyrgyz" in page.verdict()


def test_the_packs_are_shown(page):
    for name, theme, width in (
        ("packs-desktop-light", "light", 1280),
        ("packs-phone-dark", "dark", 360),
    ):
        page.visit(theme, width)
        page.see("button[role=tab]", "Language packs").click()
        cards = [page.see("#packs .pack", language).text for language in ("Kyrgyz", "Irish")]
        assert all("dev CER" in card and "Model card" in card for card in cards)
        page.see("#packs summary").click()
        page.see("#packs .markdown", "routed right")
        assert page.see("#packs img").is_displayed()
        page.shoot(name)


def test_everything_is_reached_by_tab(page):
    page.visit()
    reached = []
    for _ in range(40):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        script = """
            const e = document.activeElement, s = getComputedStyle(e);
            return [e.closest('[id]:not([id^=component])')?.id ?? '',
                    e.innerText || e.ariaLabel || e.value,
                    s.outlineStyle != 'none' || s.boxShadow != 'none' || e.matches('input')]"""
        reached.append(page.driver.execute_script(script))
    places = {place for place, _, _ in reached}
    assert {"sound", "route", "languages", "transcribe", "examples"} <= places, reached
    assert all(visible for place, _, visible in reached if place), [r for r in reached if not r[2]]


def test_nothing_left_the_host(page, server):
    assert page.hosts() == {server.removeprefix("http://")}
    errors = [
        entry["message"] for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"
    ]
    assert all("Waveform load error" in error for error in errors), "of the file that is no sound"
