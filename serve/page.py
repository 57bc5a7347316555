"""The page: transcripts of sound, with their evidence.

Components and handlers are here, the HTML in page_html.py and page_packs.py. All visitors share one
scheduler, which decodes their requests together.
"""

import asyncio
import contextlib
import hmac
import logging
import shutil
import sys
import tempfile
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import gradio.queueing
from fastapi import FastAPI

from dualasr.audio.files import open_sound_file
from dualasr.errors import AlignmentError, AudioError, DualasrError
from dualasr.model.dual_whisper import DualWhisper
from dualasr.transcription.transcript import Transcription
from dualasr.transcription.writers import render

from .folder import keep_young
from .page_html import View, audio_url, clock, comparison_html, note_html, transcript_html
from .page_packs import packs_html
from .request import AUTO, ModelRequest, request_for
from .routes import language_choices, language_name, routes_of
from .scheduler import Scheduler
from .session import Session, Stopped
from .wall import Wall

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
# each name lists the languages of the example
EXAMPLES = [
    HERE / "examples" / f"{codes}.opus" for codes in ("en", "de", "ky", "ga", "om", "or", "en_ky")
]
FORMATS = ("srt", "vtt", "txt", "json")
# fonts of the system; none is downloaded
FONTS = (
    "ui-sans-serif",
    "system-ui",
    "Segoe UI",
    "Roboto",
    "Noto Sans",
    "Liberation Sans",
    "sans-serif",
)
MONO = ("ui-monospace", "Consolas", "DejaVu Sans Mono", "monospace")
UNEXPECTED = "Something went wrong in the server; its log says what."
LOGIN = "Enter any name; the password is the server's key."
NO_SOUND = (
    "There is no sound yet: record some, choose a file, or try an example. If you have just chosen"
    " a file, wait until it can be played."
)
RECORDING = (
    "Your recording is not here yet: press Stop below it, wait until it can be played, and then"
    " press Transcribe again."
)


def mount_page(
    app: FastAPI, scheduler: Scheduler, folder: Path, key: str | None, keep_files_s: float
) -> None:
    """Mount the page at the root of an application, behind the wall.

    Args:
        app: The application.
        scheduler: The scheduler, with its model.
        folder: Folder for uploads and transcripts. It is removed when the application ends.
        key: Password of the page, with any name; None for no password.
        keep_files_s: Seconds for which a file is kept that nobody uses.
    """
    auth = (
        None
        if key is None
        else lambda name, password: hmac.compare_digest(password.encode(), key.encode())
    )
    page = build_page(scheduler)
    # Gradio checks the paths that an event names only if this is true. `launch` sets it, but
    # `mount_gradio_app` does not, up to 6.31, the newest: so gradio's own check is switched on.
    page.has_launched = True
    _refuse_in_one_line()
    gr.mount_gradio_app(app, page, "/", auth=auth, auth_message=key and LOGIN, **page_settings())
    mounted = app.routes[-1]
    wall = mounted.app = Wall(mounted.app, page, folder)  # type: ignore[attr-defined]
    before = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        cleaning = asyncio.create_task(keep_young(folder, keep_files_s, wall.files.forget_deleted))
        try:
            async with before(app) as state:
                yield state
        finally:
            cleaning.cancel()
            shutil.rmtree(folder, ignore_errors=True)

    app.router.lifespan_context = lifespan


def _refuse_in_one_line() -> None:
    """Let gradio write one line to the log for an event that it refuses, in place of a traceback.

    It has no switch for its own refusals, such as a choice that is not on the list.
    """

    class Brief:
        def print_exc(self) -> None:
            error = sys.exc_info()[1]
            if isinstance(error, gr.Error):
                log.warning("the page refused an event: %s", " ".join(str(error).split())[:300])
            else:
                traceback.print_exc()

        def __getattr__(self, name: str) -> Any:
            return getattr(traceback, name)

    gradio.queueing.traceback = Brief()  # type: ignore[assignment]


def page_settings() -> dict:
    """Return arguments of `gr.mount_gradio_app`: theme, style, script, and switches."""
    theme = gr.themes.Default(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="md",
        font=list(FONTS),
        font_mono=list(MONO),
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
    )
    return {
        "theme": theme,
        "css_paths": [HERE / "page.css"],
        "js": (HERE / "page.js").read_text(encoding="utf-8"),
        "allowed_paths": [str(HERE / "examples")],
        "footer_links": [],
        "run_history": False,
        "show_error": False,
        "ssr_mode": False,
    }


def build_page(scheduler: Scheduler) -> gr.Blocks:
    """Build the page."""
    with gr.Blocks(title="dualasr", analytics_enabled=False) as page:
        gr.HTML(
            "<h1>dualasr</h1><p>Whisper, with packs for languages that it does not know. Speak, and"
            " see which of them understands you.</p>",
            elem_id="title",
        )
        with gr.Tabs():
            with gr.Tab("Transcribe"):
                refreshed = _transcribe_tab(scheduler)
            with gr.Tab("Language packs"):
                packs = gr.HTML(elem_id="packs")

        def refresh():
            model = scheduler.model
            return *choices(model), packs_html(model)

        page.load(
            refresh, None, [*refreshed, packs], show_progress="hidden", api_visibility="private"
        )
    # gradio need not limit requests, as the scheduler has a queue
    page.queue(default_concurrency_limit=None, api_open=False)
    return page


def _transcribe_tab(scheduler: Scheduler) -> list[gr.Component]:
    """Build the tab, and return the components that `choices` fills whenever the page is loaded."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            sound = gr.Audio(
                sources=["upload", "microphone"],
                type="filepath",
                label="Sound",
                buttons=[],
                elem_id="sound",
            )
            route = gr.Radio(
                [("Automatic", AUTO)], value=AUTO, label="Who transcribes", elem_id="route"
            )
            languages = gr.Dropdown(
                [],
                multiselect=True,
                label="Languages it can be (none chosen: any)",
                elem_id="languages",
            )
            with gr.Row():
                go = gr.Button(
                    "Transcribe", variant="primary", scale=3, min_width=160, elem_id="transcribe"
                )
                stop = gr.Button("Stop", interactive=False, min_width=80, elem_id="stop")
            with gr.Column(elem_id="examples"):
                gr.HTML("<h2>Or try an example, read by a machine</h2>", apply_default_css=False)
                with gr.Row():
                    examples = [
                        gr.Button(file.stem, size="sm", visible=False, min_width=84)
                        for file in EXAMPLES
                    ]
        with gr.Column(scale=3, min_width=300):
            transcript = gr.HTML(
                note_html("The transcript will be here."), elem_id="answer", apply_default_css=False
            )
            with gr.Row(visible=False, elem_id="downloads") as downloads:
                files = [
                    gr.DownloadButton(f"Download .{name}", size="sm", min_width=130)
                    for name in FORMATS
                ]
            compare = gr.Button(
                "Compare what Whisper and each pack write", visible=False, elem_id="compare"
            )
            comparison = gr.HTML(elem_id="comparison", apply_default_css=False)
    session = gr.State(Session())

    outputs = [transcript, stop, downloads, *files, compare, comparison]
    hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    event: dict[str, Any] = {
        "fn": partial(transcribe, scheduler),
        "inputs": [sound, route, languages, session],
        "outputs": outputs,
        **hidden,
    }
    go.click(**event)
    for file, button in zip(EXAMPLES, examples, strict=True):
        button.click(partial(str, file), None, sound, **hidden).success(**event)
    sound.start_recording(Session.record, session, None, **hidden)
    sound.change(Session.receive, session, None, **hidden)
    compare.click(partial(compare_routes, scheduler), session, [comparison, stop], **hidden)
    stop.click(Session.stop, session, None, **hidden)
    return [route, languages, *examples]


def choices(model: DualWhisper) -> list[gr.Component]:
    """Return the choices of routes, languages and examples for a model."""
    routes = routes_of(model)
    labels = [("Automatic", AUTO), *((route.label, route.name) for route in routes)]
    known = {code for route in routes for code in route.languages}
    buttons = []
    for file in EXAMPLES:
        codes = file.stem.split("_")
        name = ", then ".join(language_name(code, routes) for code in codes)
        buttons.append(gr.Button(name, visible=known.issuperset(codes)))
    return [
        gr.Radio(labels, value=AUTO),
        gr.Dropdown(language_choices(routes), value=None),
        *buttons,
    ]


def model_request(model: DualWhisper, name: str, languages: Sequence[str] | None) -> ModelRequest:
    """Build a request, with times of words if this machine can find them.

    Args:
        model: The loaded model.
        name: Name of the route, or "auto".
        languages: Codes of the languages that were chosen; None or () for all.

    Returns:
        The request. If a route was chosen, its languages are those that the route knows.

    Raises:
        DualasrError: The route is not loaded any more, or knows none of the languages.
    """
    routes = routes_of(model)
    route = next((route for route in routes if route.name == name), None)
    if route is not None and languages:
        known = [code for code in languages if code in route.languages]
        if not known:
            names = ", ".join(language_name(code, routes) for code in languages)
            raise DualasrError(
                f"{route.label} does not know {names}; choose Automatic, or other languages."
            )
        languages = known
    try:
        return request_for(model, route=name, languages=languages or (), words=True)
    except AlignmentError:
        return request_for(model, route=name, languages=languages or ())


async def transcribe(
    scheduler: Scheduler,
    path: str | None,
    route: str,
    languages: Sequence[str] | None,
    session: Session,
) -> AsyncIterator[tuple]:
    """Handle the button Transcribe.

    Args:
        scheduler: The scheduler, with its model.
        path: The sound file; None without one.
        route: Name of the route, or "auto".
        languages: Codes of the languages that were chosen; None or () for all.
        session: The visitor's session.

    Yields:
        The outputs of the tab: the transcript while it grows, at the end with its files.

    Raises:
        gr.Error: The sound cannot be transcribed.
    """
    if not path:
        raise gradio_error(RECORDING if session.recording else NO_SOUND)
    view = View(routes_of(scheduler.model), audio_url(path))
    session.result = None
    total = await asyncio.to_thread(_total_s, path)
    try:
        yield _outputs(note_html(_waiting(scheduler), "busy"), busy=True)
        async for result, done in session.transcribe(
            scheduler, Path(path), model_request(scheduler.model, route, languages)
        ):
            if not done:
                progress = _progress(_end_s(result), total)
                yield _outputs(transcript_html(result, view, progress), busy=True)
                continue
            session.path, session.result, session.languages = path, result, tuple(languages or ())
            with transcript_files(result, Path(path).stem) as files:
                yield _outputs(
                    transcript_html(result, view),
                    files if result.text.strip() else (),
                    compare=True,
                )
    except Stopped as stopped:
        yield _outputs(note_html(str(stopped)))
    except Exception as error:
        text = error_text(error, path)
        yield _outputs(note_html(text, "error"))
        raise gradio_error(text) from error


async def compare_routes(scheduler: Scheduler, session: Session) -> AsyncIterator[tuple]:
    """Handle the button for the comparison: transcribe the last sound by every route.

    Args:
        scheduler: The scheduler, with its model.
        session: The visitor's session, with the last sound.

    Yields:
        The comparison so far as HTML, and the button Stop.

    Raises:
        gr.Error: There is no sound yet, or it cannot be transcribed.
    """
    if (last := session.result) is None:
        raise gradio_error(NO_SOUND)
    model = scheduler.model
    routes = routes_of(model)
    found: dict[str, Transcription | None] = {route.name: None for route in routes}
    try:
        for route in routes:
            yield (
                comparison_html(list(found.items()), last.text, View(routes)),
                gr.Button(interactive=True),
            )
            known = [code for code in session.languages if code in route.languages]
            async for result, done in session.transcribe(
                scheduler, Path(session.path), model_request(model, route.name, known)
            ):
                found[route.name] = result if done else None
            if session.result is not last:  # the visitor has begun with another sound
                return
        yield (
            comparison_html(list(found.items()), last.text, View(routes)),
            gr.Button(interactive=False),
        )
    except Stopped as stopped:
        yield note_html(str(stopped)), gr.Button(interactive=False)
    except Exception as error:
        text = error_text(error, session.path)
        yield note_html(text, "error"), gr.Button(interactive=False)
        raise gradio_error(text) from error


@contextlib.contextmanager
def transcript_files(result: Transcription, stem: str) -> Iterator[list[str]]:
    """Write the transcript in every format to temporary files, which gradio copies.

    Args:
        result: The transcript.
        stem: Name of the files without suffix.

    Yields:
        Their paths; the files are deleted afterwards.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{stem or 'transcript'}.{name}") for name in FORMATS]
        for path, name in zip(paths, FORMATS, strict=True):
            path.write_text(render(result, name), encoding="utf-8")
        yield [str(path) for path in paths]


def error_text(error: BaseException, path: str) -> str:
    """Return the message of an error for a visitor.

    Messages of errors that dualasr raises on purpose are shown, with the name of the sound file
    instead of its path. Other errors go only to the log.

    Args:
        error: The error.
        path: The sound file.

    Returns:
        The message.
    """
    if isinstance(error, DualasrError):
        text = str(error)
        for place in (path, str(Path(path).resolve())):
            text = text.replace(place, Path(path).name)
        return text
    log.error("the page failed", exc_info=error)
    return UNEXPECTED


def gradio_error(text: str) -> gr.Error:
    """Return an error for gradio, which shows messages as HTML."""
    return gr.Error(escape(text), title="That did not work", duration=8, print_exception=False)


def _total_s(path: str) -> float:
    """Return the length of a sound in seconds; 0 if it cannot be read."""
    try:
        with open_sound_file(Path(path)) as reader:
            return reader.duration()
    except AudioError:  # the transcription says what is wrong
        return 0.0


def _progress(done: float, total: float) -> str:
    """Say how much is transcribed, of how much if that is known; both in seconds."""
    of = f"of {clock(total)}" if total and total >= done else "so far"
    return f"Transcribing: {clock(done)} {of}"


def _end_s(result: Transcription) -> float:
    """Return the end of the last segment, in seconds."""
    return result.segments[-1].end if result.segments else 0.0


def _waiting(scheduler: Scheduler) -> str:
    """Return a note for the time before the first text."""
    ahead = len(scheduler)
    return "Transcribing" if not ahead else f"Waiting for {ahead} other request{'s' * (ahead != 1)}"


def _outputs(
    html: str, files: Sequence[str] = (), *, busy: bool = False, compare: bool = False
) -> tuple:
    """Return values for all outputs of the tab.

    They are the transcript, the button Stop, the downloads, the button for the comparison, and an
    empty comparison.
    """
    downloads = files or [gr.skip()] * len(FORMATS)
    return (
        html,
        gr.Button(interactive=busy),
        gr.Row(visible=bool(files)),
        *downloads,
        gr.Button(visible=compare),
        "",
    )
