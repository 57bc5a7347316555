"""OpenAI's own client against the server: transcripts as requested, errors as its exceptions."""

import io
import json
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest
import srt
import webvtt
from serving import serving, small_model, write_sound

pytest.importorskip("fastapi")

from dualasr_serve.app import Settings, create_app
from dualasr_serve.limits import UploadLimits
from dualasr_serve.request import request_for
from dualasr_serve.scheduler import Limits, Scheduler
from prometheus_client.parser import text_string_to_metric_families

from dualasr.transcription.transcribe import transcribe

KEY = "clé-de-test"[3:]
WEB = httpx.Client(timeout=60)  # of a busy machine


@pytest.fixture(scope="module")
def model(tiny_folder, make_secondary):
    return small_model(tiny_folder, make_secondary)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    return {
        "short": write_sound(folder / "short.wav", 1.4, 1),
        "long": write_sound(folder / "long.flac", 17, 2),
    }


@pytest.fixture(scope="module")
def serve(model, tmp_path_factory):
    """Servers of the model, by their settings, and the folder of their uploads."""
    uploads = tmp_path_factory.mktemp("uploads")

    def start(**settings):
        app = create_app(
            scheduler, lambda: scheduler.model, uploads, Settings(**{"page": False} | settings)
        )
        return serving(app)

    scheduler = Scheduler(model, Limits(audio_s=60))
    yield start
    scheduler.close(drop=True)
    assert not list(uploads.iterdir()), "uploads are left"


@pytest.fixture(scope="module")
def url(serve):
    with serve(key=KEY) as url:
        yield url


@pytest.fixture(scope="module")
def url_with_page(serve):
    pytest.importorskip("gradio")
    with serve(page=True, uploads=UploadLimits(body=50_000)) as url:
        yield url


@pytest.fixture(scope="module")
def url_of_guarded_page(serve):
    pytest.importorskip("gradio")
    with serve(page=True, key=KEY) as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)


def expected(model, path, **fields):
    model_request = request_for(model, **fields)
    request = model_request.request
    return transcribe(
        model_request.model,
        path,
        route=request.route,
        language=request.language,
        options=request.options,
    )


@pytest.mark.parametrize(
    "name, formats",
    [
        ("short", ("json", "text", "srt", "verbose_json", "vtt")),
        ("long", ("text", "srt", "verbose_json")),
    ],
)
def test_every_format_holds_the_transcript_and_streams_to_the_same_text(
    client, model, sounds, name, formats
):
    path = sounds[name]
    wanted = expected(model, path, route="north")
    assert wanted.text and len(wanted.segments) == {"short": 1, "long": 2}[name]
    ask = lambda **more: client.audio.transcriptions.create(file=path, model="north", **more)  # noqa: E731
    plain = {kind: ask(response_format=kind) for kind in formats}
    texts = {
        kind: answer if isinstance(answer, str) else answer.text for kind, answer in plain.items()
    }
    assert {text.rstrip("\n") for kind, text in texts.items() if kind not in ("srt", "vtt")} == {
        wanted.text
    }
    assert [cue.content for cue in srt.parse(texts["srt"])] == [s.text for s in wanted.segments]
    if "vtt" in texts:
        cues = webvtt.from_buffer(io.StringIO(texts["vtt"])).captions
        assert [cue.raw_text for cue in cues] == [s.text for s in wanted.segments]
    verbose = plain["verbose_json"]
    assert [(s.start, s.end, s.text) for s in verbose.segments] == [
        (s.start, s.end, f" {s.text}") for s in wanted.segments
    ]
    assert "".join(s.text for s in verbose.segments) == f" {wanted.text}", "as OpenAI's do"
    assert (verbose.language, verbose.duration, verbose.words) == ("ky", wanted.duration, None)
    for kind in formats:
        events = list(ask(response_format=kind, stream=True))
        done = events.pop()
        assert done.type == "transcript.text.done" and {e.type for e in events} == {
            "transcript.text.delta"
        }
        assert "".join(e.delta for e in events) == done.text == texts[kind]
        assert len(events) >= (2 if name == "long" else 1)


def test_words_and_segments_come_if_they_are_requested(client, model, sounds):
    wanted = expected(model, sounds["short"], route="north", words=True)
    words = [(w.word.strip(), w.start, w.end) for s in wanted.segments for w in s.words]
    ask = lambda *kinds: client.audio.transcriptions.create(  # noqa: E731
        file=sounds["short"],
        model="north",
        response_format="verbose_json",
        timestamp_granularities=list(kinds),
    )
    both, alone, without = ask("word", "segment"), ask("word"), ask("segment")
    assert words and [(w.word, w.start, w.end) for w in both.words] == words == [
        (w.word, w.start, w.end) for w in alone.words
    ]
    assert (
        alone.segments is None
        and without.words is None
        and len(both.segments) == len(without.segments) == 1
    )
    plain = client.audio.transcriptions.create(
        file=sounds["short"], model="north", timestamp_granularities=["word"]
    )
    assert plain.text == wanted.text and not hasattr(plain, "words"), "json has no place for them"


def test_without_torchaudio_there_are_segments_of_packs_and_words_of_the_base(
    client, model, sounds, without_torchaudio
):
    ask = lambda name, *kinds: client.audio.transcriptions.create(  # noqa: E731
        file=sounds["short"],
        model=name,
        response_format="verbose_json",
        timestamp_granularities=list(kinds),
    )
    for name in ("north", "auto"):
        with pytest.raises(openai.BadRequestError, match="no word times for packs") as caught:
            ask(name, "word")
        assert caught.value.param == "timestamp_granularities[]"
        assert "torch" not in str(caught.value), "what is installed is nobody's business"
    assert (
        ask("north", "segment").text == expected(model, sounds["short"], route="north").text != ""
    )
    assert ask("primary", "word").words


def test_the_base_transcribes_and_translates_and_so_do_the_names_that_stand_for_it(
    client, model, sounds
):
    path = sounds["short"]
    for fields in (
        {"language": "en", "temperature": 0.8},
        {"language": "ENGLISH", "prompt": "Hello.", "temperature": 1.0},
    ):
        answer = client.audio.transcriptions.create(file=path, model="primary", **fields)
        assert answer.text == expected(model, path, route="primary", **fields).text.strip()
    english = client.audio.translations.create(
        file=path, model=model.backbone.name, response_format="verbose_json", temperature=1.0
    )
    wanted = expected(model, path, translate=True, temperature=1.0)
    assert (english.text, english.language, english.task) == (
        wanted.text.strip(),
        "english",
        "translate",
    )
    auto = client.audio.transcriptions.create(file=path, model="whisper-1")
    assert auto.text == expected(model, path).text.strip()
    with pytest.raises(openai.BadRequestError, match="Translation is the primary's"):
        client.audio.translations.create(file=path, model="north")


def test_languages_say_where_to_look(client, model, sounds):
    ask = lambda *names, **more: client.audio.transcriptions.create(  # noqa: E731
        file=sounds["short"], model="auto", extra_body={"languages": list(names)}, **more
    )
    answer = ask("ga")
    assert answer.text == expected(model, sounds["short"], languages=["ga"]).text.strip()
    assert answer.languages[0].code == "ga" and answer.route == "south"
    with pytest.raises(openai.BadRequestError, match="give one of them"):
        ask("ga", "ky", language="ga")
    with pytest.raises(openai.BadRequestError, match="knows the language 'klingon'"):
        ask("ga", "klingon")
    with pytest.raises(openai.BadRequestError, match="no route 'north'"):
        client.audio.transcriptions.create(
            file=sounds["short"], model="north", extra_body={"languages": ["ga"]}
        )


def test_models_are_listed_and_described(client, model):
    # of a base that is a folder, its name alone
    names = ["auto", Path(model.backbone.name).name, "north", "south"]
    assert [one.id for one in client.models.list()] == names
    assert all(client.models.retrieve(name).id == name for name in names)
    with pytest.raises(openai.NotFoundError, match="the models are: auto, "):
        client.models.retrieve("none/such")


@pytest.mark.parametrize(
    "wrong, kind, message",
    [
        (
            {"model": "gpt-nothing"},
            openai.NotFoundError,
            "'gpt-nothing' does not exist here; the models are: auto",
        ),
        ({"model": "north", "language": "en"}, openai.BadRequestError, "does not know 'en'"),
        ({"language": "Klingon"}, openai.BadRequestError, "'Klingon'"),
        ({"response_format": "docx"}, openai.BadRequestError, "response_format"),
        ({"temperature": 1.5}, openai.BadRequestError, "temperature"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"temperature": "nan"}, openai.BadRequestError, "temperature"),
        ({"temperature": "9" * 5000}, openai.BadRequestError, "temperature"),
        ({"prompt": "x" * 4001}, openai.BadRequestError, "prompt"),
        ({"prompt": "He said <|endoftext|> and"}, openai.BadRequestError, "special token"),
        (
            {"model": "primary", "extra_body": {"languages": ["ky"]}},
            openai.BadRequestError,
            "'primary' knows none of ky",
        ),
        ({"stream": "perhaps"}, openai.BadRequestError, "stream"),
        (
            {"file": ("talk.mp3", b"this is no sound" * 99)},
            openai.BadRequestError,
            "^[^/]*talk.mp3: cannot be read",
        ),
        ({"file": ("talk.wav", b"")}, openai.BadRequestError, "^[^/]*talk.wav: is empty"),
        (
            {"file": ("../../etc/x.webm", b"no sound")},
            openai.BadRequestError,
            "x.webm: cannot be read",
        ),
        (
            {"file": ("a\0\ud800\n.wav".encode("utf-8", "replace").decode(), b"")},
            openai.BadRequestError,
            "is empty",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_said_in_the_clients_own_exceptions(
    client, sounds, wrong, kind, message, stream
):
    with pytest.raises(kind, match=message) as error:
        client.audio.transcriptions.create(
            **{"file": sounds["short"], "model": "auto", "stream": stream} | wrong
        )
    assert (
        set(error.value.body) == {"message", "type", "param", "code"}
        and error.value.type == "invalid_request_error"
    )


WRONG_KEYS = ["wrong", "x" * 5000, KEY[:-1], KEY[:1], KEY[1:], f"{KEY}x", f"x{KEY}", KEY * 2]


@pytest.mark.parametrize("key", ["wrong", "x" * 5000])
def test_a_wrong_key_is_refused_however_much_is_uploaded(url, key, sounds):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
        client.audio.transcriptions.create(file=("talk.wav", bytes(30_000_000)), model="auto")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        KEY,
        f"Basic {KEY}",
        *(f"Bearer {key}" for key in (*WRONG_KEYS, KEY.swapcase(), f"{KEY} {KEY}")),
    ],
)
def test_only_the_whole_key_opens_a_guarded_path(url, header):
    headers = {} if header is None else {"Authorization": header.encode()}
    paths = ["GET /v1/models", "GET /v1/nothing", "POST /v1/audio/transcriptions", "GET /metrics"]
    paths += ["POST /v1/audio/translations", "POST /inference", "POST /admin/packs/reload"]
    for method, path in map(str.split, paths):
        answer = WEB.request(method, f"{url}{path}", headers=headers)
        assert answer.status_code == 401, path
        assert answer.json()["error"]["code"] == "invalid_api_key"
    for path in ("/health", "/openapi.json"):
        assert WEB.get(f"{url}{path}", headers=headers).status_code == 200, path


@pytest.mark.parametrize("password", ["", *WRONG_KEYS])
def test_only_the_whole_key_opens_the_page(url_of_guarded_page, password):
    with httpx.Client(base_url=url_of_guarded_page, timeout=60) as visitor:
        login = {"username": "any", "password": password}
        assert visitor.post("/login", data=login).status_code in (400, 422)
        assert visitor.get("/config").status_code == 401
        assert visitor.post("/login", data=login | {"password": KEY}).status_code == 200
        assert visitor.get("/config").status_code == 200


def test_without_a_key_it_is_open_and_has_no_administration(serve, sounds):
    with serve() as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="whatever")
        assert client.audio.transcriptions.create(file=sounds["short"], model="north").text
        answer = WEB.post(f"{url}/admin/packs/reload")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_a_key_may_hold_any_letters(serve):
    with serve(key="ачкыч") as url:
        bearer = [(b"Authorization", "Bearer ачкыч".encode())]
        assert WEB.get(f"{url}/v1/models", headers=bearer).status_code == 200


def test_health_and_metrics_count_what_was_done(serve, sounds, client):
    with serve() as url:
        for status in (200, 404):
            data = {"model": "north" if status == 200 else "none"}
            answer = WEB.post(
                f"{url}/v1/audio/transcriptions",
                data=data,
                files={"file": sounds["short"].open("rb")},
            )
            assert answer.status_code == status
        assert WEB.get(f"{url}/health").json() == {
            "status": "ok",
            "queue": 0,
            "models": [m.id for m in client.models.list()],
        }
        metrics = WEB.get(f"{url}/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    samples = {
        (s.name, *sorted(s.labels.items())): s.value
        for family in text_string_to_metric_families(metrics.text)
        for s in family.samples
    }
    path = ("path", "/v1/audio/transcriptions")
    assert {
        samples["dualasr_requests_total", path, ("status", str(status))] for status in (200, 404)
    } == {1}
    assert samples["dualasr_request_seconds_count", path] == 2 and samples["dualasr_queue",] == 0
    assert samples["dualasr_packs",] == 2 and samples["dualasr_audio_seconds_total",] >= 1.4
    routes = sum(value for name, value in samples.items() if name[0] == "dualasr_windows_total")
    assert (
        routes
        >= samples["dualasr_windows_total", ("route", "north")]
        >= 1
        <= samples["dualasr_batches_total",]
    )


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/audio/transcriptions", 405),
        ("GET", "/none", 404),
        ("DELETE", "/health", 405),
        ("PUT", "/admin/packs/reload", 405),
        ("GET", "/admin", 404),
        ("DELETE", "/v1/models/north", 405),
    ],
)
def test_what_is_not_there_is_an_error_in_the_same_shape(url, method, path, status):
    check_shape(url, method, path, status)


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("GET", "/v1/nothing", 404),
        ("DELETE", "/health", 405),
        ("POST", "/metrics", 405),
        ("POST", "/audio/transcriptions", 404),
        ("GET", "/admin", 404),
        ("GET", "/none", 404),
        ("POST", "/none/at/all", 404),
        ("POST", "/", 404),
        ("GET", "/inference", 405),
        ("GET", "/gradio_api/none", 404),
        ("GET", "/monitoring", 404),
        ("GET", "/gradio_api/openapi.json", 404),
    ],
)
def test_so_it_is_where_there_is_a_page(url_with_page, method, path, status):
    check_shape(url_with_page, method, path, status)


def test_a_page_gets_a_sentence(url_with_page):
    answer = WEB.post(
        f"{url_with_page}/gradio_api/upload", files={"files": ("a.wav", bytes(70_000))}
    )
    assert (
        answer.status_code == 413
        and answer.text == "The request is larger than 0.05 MB, the limit here."
    )
    answer = WEB.post(
        f"{url_with_page}/v1/audio/transcriptions", files={"file": ("a.wav", bytes(70_000))}
    )
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "request_too_large"


def check_shape(url, method, path, status):
    answer = WEB.request(method, url + path, headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == status and ("allow" in answer.headers) == (status == 405)
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "clip",
        ".wav",
        "a/b\\c.WAV",
        "Кыргыз тили.wav",
        "x" * 300 + ".wav",
        "%00.wav",
        'say "hi".wav',
        "clip.tar.gz",
        "wav.exe",
    ],
)
def test_no_name_of_a_file_changes_its_transcript(client, model, sounds, name):
    answer = client.audio.transcriptions.create(
        file=(name, sounds["short"].read_bytes()), model="north"
    )
    assert answer.text == expected(model, sounds["short"], route="north").text


@pytest.mark.parametrize(
    "field",
    ["model", "language", "languages[]", "prompt", "temperature", "response_format", "filename"],
)
@pytest.mark.parametrize(
    "value",
    [b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", b"1e999", b"-inf", "\u202e\u2028".encode()],
)
@pytest.mark.parametrize("charset", ["utf-8", "unicode_escape"])
def test_hostile_fields_are_read_or_refused_and_the_answer_is_json(
    url, sounds, field, value, charset
):
    fields = {b"model": b"south", field.encode(): value}
    name = fields.pop(b"filename", b"a.wav")
    parts = [
        b'--B\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % pair
        for pair in fields.items()
    ]
    parts.append(
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n\r\n--B--\r\n'
        % name
    )
    headers = {
        "Authorization": f"Bearer {KEY}",
        "Content-Type": f"multipart/form-data; boundary=B; charset={charset}",
    }
    answer = WEB.post(f"{url}/v1/audio/transcriptions", content=b"".join(parts), headers=headers)
    assert answer.status_code in (400, 404)  # at the latest because the file is empty
    assert json.loads(answer.content)["error"]["message"]


def test_what_is_sent_need_not_be_a_form(url, sounds):
    bearer = {"Authorization": f"Bearer {KEY}"}
    for body in (
        {"json": {"file": "x", "model": "auto"}},
        {"content": b"\xff" * 99},
        {},
        {"data": {"file": "no file", "model": "auto"}},
        {"files": {"file": b"", "model": b"auto"}},
        {"data": {"model": "auto"}},
    ):
        answer = WEB.post(f"{url}/v1/audio/transcriptions", headers=bearer, **body)
        assert answer.status_code == 400 and answer.json()["error"]["param"] in ("file", "model")


def test_a_bug_is_a_500_without_a_word_of_it(model, tmp_path, sounds):
    broken = replace(model, packs={"north": replace(model.packs["north"], secondary=None)})
    scheduler = Scheduler(broken)
    app = create_app(scheduler, lambda: broken, tmp_path, Settings(page=False))
    with serving(app) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError, match="its log says what") as error:
                client.audio.transcriptions.create(
                    file=sounds["short"], model="north", stream=stream
                )
            assert "NoneType" not in str(error.value.body)
    scheduler.close()
    assert not list(tmp_path.iterdir())
