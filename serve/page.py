"""The page: sound in, transcript with its evidence out. Handlers here; HTML in page_html.py and page_packs.py.

Every visitor's handlers wait on the one scheduler, which decodes what they ask together.
"""

import asyncio
import contextlib
import hmac
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path

import gradio as gr
from fastapi import FastAPI

from dualasr.errors import DualasrError
from dualasr.model import DualWhisper
from dualasr.transcript import Transcription
from dualasr.writers import render

from .decoders import decoders_of, language_choices, language_name
from .orders import AUTO, Order, order_of
from .page_html import Shown, address, answer_html, clock, comparison_html, note_html
from .page_packs import packs_html
from .scheduler import Scheduler

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
EXAMPLES = [HERE / "examples" / f"{codes}.opus" for codes in ("en", "de", "ky", "ga", "om", "or", "en_ky")]  # by languages
FORMATS = ("srt", "vtt", "txt", "json")
FONTS = ("ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "sans-serif")  # none is fetched
MONO = ("ui-monospace", "Consolas", "DejaVu Sans Mono", "monospace")
KEPT_S = 3600  # seconds that what a visitor uploaded, and its transcript, are kept
UNEXPECTED = "Something went wrong here; it is in the server's log."
LOGIN = "Any name will do; the password is the server's key."
NOTHING_YET = "There is no sound yet: record some, choose a file, or try an example."


@dataclass(frozen=True)
class Answer:
    """What a visitor was last answered, for the comparison."""

    path: str
    result: Transcription


def mount_page(app: FastAPI, scheduler: Scheduler, key: str | None = None,
               folders: Callable[[], Mapping[str, Path]] = dict) -> None:  # fmt: skip
    """Put the page at the root of an application. With a key it asks for a password, which is the key; any name will do."""
    auth = None if key is None else lambda name, password: hmac.compare_digest(password.encode(), key.encode())
    gr.mount_gradio_app(app, build_page(scheduler, folders), "/", auth=auth, auth_message=key and LOGIN, **look())


def look() -> dict:
    """What `gr.mount_gradio_app` is to be given besides the page."""
    theme = gr.themes.Default(
        primary_hue="teal", secondary_hue="teal", neutral_hue="slate", radius_size="md", font=list(FONTS), font_mono=list(MONO)
    ).set(
        button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700", button_primary_background_fill_hover_dark="*primary_600",
    )  # fmt: skip
    return {
        "theme": theme, "css_paths": [HERE / "page.css"], "js": (HERE / "page.js").read_text(encoding="utf-8"),
        "allowed_paths": [str(HERE / "examples")], "footer_links": [], "run_history": False, "show_error": False,
        "ssr_mode": False,
    }  # fmt: skip


def build_page(scheduler: Scheduler, folders: Callable[[], Mapping[str, Path]] = dict) -> gr.Blocks:
    """The page over a scheduler. `folders` tells, at each visit, where the packs lie, by name."""
    with gr.Blocks(title="dualasr", analytics_enabled=False, delete_cache=(600, KEPT_S)) as page:
        gr.HTML("<h1>dualasr</h1><p>Whisper, and languages it was never taught. Speak, and see who understands you.</p>",
                elem_id="title")  # fmt: skip
        with gr.Tabs():
            with gr.Tab("Transcribe"):
                fresh = _transcribe_tab(scheduler)
            with gr.Tab("Language packs"):
                packs = gr.HTML(elem_id="packs")

        def visit():
            model = scheduler.model
            return *choices(model), packs_html(model, folders())

        page.load(visit, None, [*fresh, packs], show_progress="hidden", api_visibility="private")
    page.queue(default_concurrency_limit=None, api_open=False)  # the scheduler is what waits in line
    return page


def _transcribe_tab(scheduler: Scheduler) -> list[gr.Component]:
    """The tab's components and events; those that each visit fills anew: as `choices` gives them."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            sound = gr.Audio(sources=["upload", "microphone"], type="filepath", label="Sound", buttons=[], elem_id="sound")
            route = gr.Radio([("Automatic", AUTO)], value=AUTO, label="Who transcribes", elem_id="route")
            languages = gr.Dropdown([], multiselect=True, label="Languages it can be (none chosen: any)", elem_id="languages")
            with gr.Row():
                go = gr.Button("Transcribe", variant="primary", elem_id="transcribe")
                stop = gr.Button("Stop", variant="stop", visible=False, elem_id="stop")
            with gr.Column(elem_id="examples"):
                gr.HTML("<h2>Or try an example, read by a machine</h2>", apply_default_css=False)
                with gr.Row():
                    examples = [gr.Button(file.stem, size="sm", visible=False, min_width=84) for file in EXAMPLES]
        with gr.Column(scale=3, min_width=300):
            answer = gr.HTML(note_html("The transcript will be here."), elem_id="answer", apply_default_css=False)
            with gr.Row(visible=False, elem_id="downloads") as downloads:
                files = [gr.DownloadButton(f"Download .{name}", size="sm", min_width=130) for name in FORMATS]
            compare = gr.Button("What would each pipeline have said?", visible=False, elem_id="compare")
            comparison = gr.HTML(elem_id="comparison", apply_default_css=False)
    kept = gr.State(None, time_to_live=KEPT_S)

    outputs = [answer, kept, stop, downloads, *files, compare, comparison]
    hidden = {"show_progress": "hidden", "api_visibility": "private"}
    ask = {"fn": partial(transcribe, scheduler), "inputs": [sound, route, languages], "outputs": outputs, **hidden}
    events = [go.click(**ask)]
    for file, button in zip(EXAMPLES, examples, strict=True):
        play = button.click(partial(str, file), None, sound, **hidden)
        events += [play, play.success(**ask)]
    events.append(compare.click(partial(compared, scheduler), kept, comparison, **hidden))
    stop.click(lambda: (gr.Button(visible=False), note_html("Stopped.")), None, [stop, answer], cancels=events, **hidden)
    return [route, languages, *examples]


def choices(model: DualWhisper) -> list[gr.Component]:
    """Routes, languages and examples as the model now has them."""
    decoders = decoders_of(model)
    routes = [("Automatic", AUTO), *((decoder.label, decoder.name) for decoder in decoders)]
    known = {code for decoder in decoders for code in decoder.languages}
    buttons = []
    for file in EXAMPLES:
        codes = file.stem.split("_")
        name = ", then ".join(language_name(code, decoders) for code in codes)
        buttons.append(gr.Button(name, visible=known.issuperset(codes)))
    return [gr.Radio(routes, value=AUTO), gr.Dropdown(language_choices(decoders), value=None), *buttons]


def order(model: DualWhisper, route: str, languages: Sequence[str]) -> Order:
    """What is asked for. Raises DualasrError where the route is gone, or knows none of the languages that were chosen."""
    decoders = decoders_of(model)
    decoder = next((decoder for decoder in decoders if decoder.name == route), None)
    if decoder is not None and languages:
        mine = [code for code in languages if code in decoder.languages]
        if not mine:
            names = ", ".join(language_name(code, decoders) for code in languages)
            raise DualasrError(f"{decoder.label} does not know {names}; choose Automatic, or other languages.")
        languages = mine
    return order_of(model, route=route, languages=languages, words=True)


async def transcribe(scheduler: Scheduler, path: str | None, route: str, languages: Sequence[str]) -> AsyncIterator[tuple]:
    """The answer as it grows, then whole with its files: what `_transcribe_tab` outputs. Raises gr.Error."""
    if not path:
        raise sorry(NOTHING_YET)
    decoders = decoders_of(scheduler.model)
    shown = Shown(decoders, address(path))
    try:
        yield _while_busy(note_html(_queued(scheduler), "busy"))
        async for result, done in heard(scheduler, Path(path), order(scheduler.model, route, languages)):
            if not done:
                yield _while_busy(answer_html(result, shown, f"Listening: {clock(result.duration)} so far"))
                continue
            with written(result, Path(path).stem) as files:
                visible = bool(result.text.strip())
                yield (
                    answer_html(result, shown), Answer(path, result), gr.Button(visible=False), gr.Row(visible=visible),
                    *files, gr.Button(visible=True), "",
                )  # fmt: skip
    except Exception as error:
        text = sentence(error, path)
        yield note_html(text, "error"), None, gr.Button(visible=False), gr.skip(), *[gr.skip()] * len(FORMATS), gr.skip(), ""
        raise sorry(text) from error


async def compared(scheduler: Scheduler, answer: Answer | None) -> AsyncIterator[str]:
    """What every pipeline says of the sound that was answered last, each as it is done. Raises gr.Error."""
    if answer is None:
        raise sorry(NOTHING_YET)
    model = scheduler.model
    decoders = decoders_of(model)
    found: dict[str, Transcription | None] = {decoder.name: None for decoder in decoders}
    try:
        for decoder in decoders:
            yield comparison_html(list(found.items()), answer.result.route, Shown(decoders))
            async for result, _ in heard(scheduler, Path(answer.path), order(model, decoder.name, ())):
                found[decoder.name] = result
        yield comparison_html(list(found.items()), answer.result.route, Shown(decoders))
    except Exception as error:
        text = sentence(error, answer.path)
        yield note_html(text, "error")
        raise sorry(text) from error


async def heard(scheduler: Scheduler, path: Path, asked: Order) -> AsyncIterator[tuple[Transcription, bool]]:
    """The transcript so far as it grows, then (True) the whole. Who stops listening cancels the request.

    Raises what the scheduler raises.
    """
    loop, grown = asyncio.get_running_loop(), asyncio.Event()
    latest: list[Transcription] = []

    def tell(so_far: Transcription | None = None) -> None:  # in the scheduler's thread
        if so_far is not None:
            latest[:] = [so_far]
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            loop.call_soon_threadsafe(grown.set)

    ticket = scheduler.submit(path, asked, tell)
    ticket.future.add_done_callback(lambda _: tell())
    try:
        while not ticket.future.done():
            await grown.wait()
            grown.clear()
            if latest and not ticket.future.done():
                yield latest.pop(), False
        yield ticket.future.result(), True
    finally:
        ticket.cancel()


@contextlib.contextmanager
def written(result: Transcription, stem: str):
    """The transcript in every format, as files that gradio copies while they are there."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{stem or 'transcript'}.{name}") for name in FORMATS]
        for path, name in zip(paths, FORMATS, strict=True):
            path.write_text(render(result, name), encoding="utf-8")
        yield [str(path) for path in paths]


def sentence(error: BaseException, path: str) -> str:
    """What a visitor reads of an error: our own errors as they are, with the file's name in place of where it lies here."""
    if isinstance(error, DualasrError):
        text = str(error)
        for place in (path, str(Path(path).resolve())):
            text = text.replace(place, Path(path).name)
        return text
    log.error("the page failed", exc_info=error)
    return UNEXPECTED


def sorry(text: str) -> gr.Error:
    return gr.Error(escape(text), title="That did not work", duration=8, print_exception=False)  # gradio shows it as HTML


def _queued(scheduler: Scheduler) -> str:
    ahead = len(scheduler)
    return "Listening" if not ahead else f"Waiting for {ahead} other request{'s' * (ahead != 1)}"


def _while_busy(html: str) -> tuple:
    """The outputs while the answer grows: no downloads and no comparison, but a way to stop."""
    return html, None, gr.Button(visible=True), gr.Row(visible=False), *[gr.skip()] * len(FORMATS), gr.Button(visible=False), ""
