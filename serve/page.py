"""The page: sound in, transcript with its evidence out. Handlers here; HTML in page_html.py and
page_packs.py.

Every visitor's handlers wait on the one scheduler, which decodes what they ask together.
"""

import contextlib
import hmac
import logging
import tempfile
from collections.abc import AsyncIterator, Sequence
from functools import partial
from html import escape
from pathlib import Path

import gradio as gr
from fastapi import FastAPI

from dualasr.errors import AlignmentError, DualasrError
from dualasr.model.dual_whisper import DualWhisper
from dualasr.transcription.transcript import Transcription
from dualasr.transcription.writers import render

from .page_html import Shown, address, answer_html, clock, comparison_html, note_html
from .page_packs import packs_html
from .request import AUTO, ModelRequest, request_for
from .routes import decoders_of, language_choices, language_name
from .scheduler import Scheduler
from .session import Stopped, Visit

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
# by languages
EXAMPLES = [
    HERE / "examples" / f"{codes}.opus" for codes in ("en", "de", "ky", "ga", "om", "or", "en_ky")
]
FORMATS = ("srt", "vtt", "txt", "json")
# none is fetched
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
KEPT_S = 3600  # seconds that what a visitor uploaded, and its transcript, are kept
UNEXPECTED = "Something went wrong here; it is in the server's log."
LOGIN = "Any name will do; the password is the server's key."
NOTHING_YET = "There is no sound yet: record some, choose a file, or try an example."


def mount_page(app: FastAPI, scheduler: Scheduler, key: str | None = None) -> None:
    """Put the page at the root of an application. With a key it asks for a password, which is the
    key; any name will do.
    """
    auth = (
        None
        if key is None
        else lambda name, password: hmac.compare_digest(password.encode(), key.encode())
    )
    page = build_page(scheduler)
    # Gradio checks the paths that an event names only where this is true, and only `launch` sets
    # it, not `mount_gradio_app`. Without the check, a visitor can have any file that this process
    # can read copied to gradio's cache, from which every file is served.
    page.has_launched = True
    gr.mount_gradio_app(
        app, page, "/", auth=auth, auth_message=key and LOGIN, **look()
    )


def look() -> dict:
    """What `gr.mount_gradio_app` is to be given besides the page."""
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
    """The page over a scheduler."""
    with gr.Blocks(title="dualasr", analytics_enabled=False, delete_cache=(600, KEPT_S)) as page:
        gr.HTML(
            "<h1>dualasr</h1><p>Whisper, and languages it was never taught. Speak, and see who"
            " understands you.</p>",
            elem_id="title",
        )
        with gr.Tabs():
            with gr.Tab("Transcribe"):
                fresh = _transcribe_tab(scheduler)
            with gr.Tab("Language packs"):
                packs = gr.HTML(elem_id="packs")

        def visit():
            model = scheduler.model
            return *choices(model), packs_html(model)

        page.load(visit, None, [*fresh, packs], show_progress="hidden", api_visibility="private")
    # the scheduler is what waits in line
    page.queue(default_concurrency_limit=None, api_open=False)
    return page


def _transcribe_tab(scheduler: Scheduler) -> list[gr.Component]:
    """The tab's components and events; those that each visit fills anew: as `choices` gives them."""
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
            answer = gr.HTML(
                note_html("The transcript will be here."), elem_id="answer", apply_default_css=False
            )
            with gr.Row(visible=False, elem_id="downloads") as downloads:
                files = [
                    gr.DownloadButton(f"Download .{name}", size="sm", min_width=130)
                    for name in FORMATS
                ]
            compare = gr.Button(
                "What would each pipeline have said?", visible=False, elem_id="compare"
            )
            comparison = gr.HTML(elem_id="comparison", apply_default_css=False)
    visit = gr.State(Visit())

    outputs = [answer, stop, downloads, *files, compare, comparison]
    hidden = {"show_progress": "hidden", "api_visibility": "private"}
    ask = {
        "fn": partial(transcribe, scheduler),
        "inputs": [sound, route, languages, visit],
        "outputs": outputs,
        **hidden,
    }
    go.click(**ask)
    for file, button in zip(EXAMPLES, examples, strict=True):
        button.click(partial(str, file), None, sound, **hidden).success(**ask)
    compare.click(partial(compared, scheduler), visit, [comparison, stop], **hidden)
    stop.click(Visit.stop, visit, None, **hidden)
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
    return [
        gr.Radio(routes, value=AUTO),
        gr.Dropdown(language_choices(decoders), value=None),
        *buttons,
    ]


def model_request(model: DualWhisper, route: str, languages: Sequence[str] | None) -> ModelRequest:
    """What is asked for, with words where they can be had.

    Raises DualasrError where the route is gone, or knows none of the languages that were chosen.
    """
    decoders = decoders_of(model)
    decoder = next((decoder for decoder in decoders if decoder.name == route), None)
    if decoder is not None and languages:
        mine = [code for code in languages if code in decoder.languages]
        if not mine:
            names = ", ".join(language_name(code, decoders) for code in languages)
            raise DualasrError(
                f"{decoder.label} does not know {names}; choose Automatic, or other languages."
            )
        languages = mine
    try:
        return request_for(model, route=route, languages=languages, words=True)
    except AlignmentError:
        return request_for(model, route=route, languages=languages)


async def transcribe(
    scheduler: Scheduler,
    path: str | None,
    route: str,
    languages: Sequence[str] | None,
    visit: Visit,
) -> AsyncIterator[tuple]:
    """The answer as it grows, then whole with its files: what `_transcribe_tab` outputs. Raises
    gr.Error.
    """
    if not path:
        raise sorry(NOTHING_YET)
    shown = Shown(decoders_of(scheduler.model), address(path))
    visit.result = None
    try:
        yield _outputs(note_html(_queued(scheduler), "busy"), busy=True)
        async for result, done in visit.heard(
            scheduler, Path(path), model_request(scheduler.model, route, languages)
        ):
            if not done:
                yield _outputs(
                    answer_html(result, shown, f"Listening: {clock(_settled_s(result))} so far"),
                    busy=True,
                )
                continue
            visit.path, visit.result, visit.languages = path, result, tuple(languages or ())
            with written(result, Path(path).stem) as files:
                yield _outputs(
                    answer_html(result, shown), files if result.text.strip() else (), compare=True
                )
    except Stopped as stopped:
        yield _outputs(note_html(str(stopped)))
    except Exception as error:
        text = sentence(error, path)
        yield _outputs(note_html(text, "error"))
        raise sorry(text) from error


async def compared(scheduler: Scheduler, visit: Visit) -> AsyncIterator[tuple]:
    """What every pipeline says of the sound that was answered last, each as it is done; and Stop.
    Raises gr.Error.
    """
    if (known := visit.result) is None:
        raise sorry(NOTHING_YET)
    model = scheduler.model
    decoders = decoders_of(model)
    found: dict[str, Transcription | None] = {decoder.name: None for decoder in decoders}
    try:
        for decoder in decoders:
            yield (
                comparison_html(list(found.items()), known.text, Shown(decoders)),
                gr.Button(interactive=True),
            )
            mine = [code for code in visit.languages if code in decoder.languages]
            async for result, done in visit.heard(
                scheduler, Path(visit.path), model_request(model, decoder.name, mine)
            ):
                found[decoder.name] = result if done else None
            if visit.result is not known:  # another sound is heard meanwhile
                return
        yield (
            comparison_html(list(found.items()), known.text, Shown(decoders)),
            gr.Button(interactive=False),
        )
    except Stopped as stopped:
        yield note_html(str(stopped)), gr.Button(interactive=False)
    except Exception as error:
        text = sentence(error, visit.path)
        yield note_html(text, "error"), gr.Button(interactive=False)
        raise sorry(text) from error


@contextlib.contextmanager
def written(result: Transcription, stem: str):
    """The transcript in every format, as files that gradio copies while they are there."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{stem or 'transcript'}.{name}") for name in FORMATS]
        for path, name in zip(paths, FORMATS, strict=True):
            path.write_text(render(result, name), encoding="utf-8")
        yield [str(path) for path in paths]


def sentence(error: BaseException, path: str) -> str:
    """What a visitor reads of an error: our own errors as they are, with the file's name in place
    of where it lies here.
    """
    if isinstance(error, DualasrError):
        text = str(error)
        for place in (path, str(Path(path).resolve())):
            text = text.replace(place, Path(path).name)
        return text
    log.error("the page failed", exc_info=error)
    return UNEXPECTED


def sorry(text: str) -> gr.Error:
    # gradio shows it as HTML
    return gr.Error(escape(text), title="That did not work", duration=8, print_exception=False)


def _settled_s(result: Transcription) -> float:
    """The second up to which there is text."""
    return result.segments[-1].end if result.segments else 0.0


def _queued(scheduler: Scheduler) -> str:
    ahead = len(scheduler)
    return "Listening" if not ahead else f"Waiting for {ahead} other request{'s' * (ahead != 1)}"


def _outputs(
    html: str, files: Sequence[str] = (), *, busy: bool = False, compare: bool = False
) -> tuple:
    """The answer, whether Stop can be pressed, the downloads if there are any, and whether there is
    something to compare.
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
