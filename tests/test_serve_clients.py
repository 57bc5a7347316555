"""What clients of OpenAI, faster-whisper, whisper.cpp send: honoured, or refused by a sentence."""

import json
from types import SimpleNamespace

import httpx
import openai
import pytest
from serving import serving, small_model, write_sound
from transformers.models.whisper.tokenization_whisper import LANGUAGES

pytest.importorskip("fastapi")

from dualasr_serve import fields
from dualasr_serve.app import Settings, create_app
from dualasr_serve.fields import is_name_of_others
from dualasr_serve.openai_formats import spaced_texts
from dualasr_serve.request import request_for
from dualasr_serve.scheduler import Limits, Scheduler

from dualasr.audio.vad import VadOptions
from dualasr.errors import PackError
from dualasr.model.dual_whisper import DualWhisper
from dualasr.transcription.transcribe import transcribe
from dualasr.transcription.transcript import Segment

WEB = httpx.Client(timeout=60)  # of a busy machine


@pytest.fixture(scope="module")
def model(tiny_folder, make_secondary):
    return small_model(tiny_folder, make_secondary)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_sound(tmp_path_factory.mktemp("sounds") / "short.wav", 1.4, 1)


@pytest.fixture(scope="module")
def serve(model, tmp_path_factory):
    def start(**settings):
        folder = tmp_path_factory.mktemp("folder")
        app = create_app(
            scheduler, lambda: scheduler.model, folder, Settings(page=False, **settings)
        )
        return serving(app)

    scheduler = Scheduler(model, Limits(audio_s=60))
    yield start
    scheduler.close(drop=True)


@pytest.fixture(scope="module")
def url(serve):
    with serve() as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0)


@pytest.fixture
def asked(monkeypatch):
    """What is asked of the model, for each request."""
    from dualasr_serve import openai_api

    requests = []

    def noted(model, **more):
        requests.append(request_for(model, **more).request)
        return request_for(model, **more)

    monkeypatch.setattr(openai_api, "request_for", noted)
    return requests


def expected(model, path, **more) -> str:
    wanted = request_for(model, **more)
    request = wanted.request
    return transcribe(
        wanted.model,
        path,
        route=request.route,
        language=request.language,
        options=request.options,
    ).text.strip()


OTHERS = (
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-mini-transcribe-2025-12-15",
    "gpt-4o-transcribe-diarize",
    "gpt-transcribe",
    "whisper-1",
    "whisper-large-v3",
    "whisper-large-v3-turbo",
    "distil-whisper-large-v3-en",
    "openai/whisper-large-v3",
    "Systran/faster-whisper-large-v3",
    "Systran/faster-whisper-tiny.en",
    "Systran/faster-distil-whisper-small.en",
    "deepdml/faster-whisper-large-v3-turbo-ct2",
    "large-v3",
    "tiny.en",
    "turbo",
)


@pytest.mark.parametrize("name", OTHERS)
def test_names_of_other_servers_mean_auto(client, model, sound, asked, name):
    assert is_name_of_others(name)
    answer = client.audio.transcriptions.create(file=sound, model=name)
    assert asked[0].route is None and answer.text == expected(model, sound)
    assert client.models.retrieve(name).id == name


@pytest.mark.parametrize("name", ["gpt-nothing", "whisperer", "gpt-4o", "north2", "a/b", "./north"])
def test_a_name_that_nobody_has_is_refused(client, sound, name):
    with pytest.raises(openai.NotFoundError, match="does not exist here; the models are: auto"):
        client.audio.transcriptions.create(file=sound, model=name)


@pytest.mark.parametrize("path", ["v1/audio/transcriptions", "v1/audio/translations"])
def test_no_model_means_auto(url, model, sound, path):
    for data in ({}, {"model": ""}):
        answer = WEB.post(f"{url}/{path}", data=data, files={"file": sound.open("rb")})
        wanted = expected(model, sound, translate=path.endswith("translations"))
        assert answer.json()["text"] == wanted


def test_strict_names_are_those_of_the_list(serve, sound):
    with serve(strict_models=True) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0)
        for name in OTHERS:
            with pytest.raises(openai.NotFoundError, match="does not exist here"):
                client.audio.transcriptions.create(file=sound, model=name)
        with pytest.raises(openai.BadRequestError, match="Give a model; the models are: auto"):
            client.audio.transcriptions.create(file=sound, model="")
        names = [one.id for one in client.models.list()]
        assert all(client.models.retrieve(name).id == name for name in (*names, "primary"))
        assert client.audio.transcriptions.create(file=sound, model="north").text


@pytest.mark.parametrize(
    "sent, code",
    [
        *(("auto", None), ("", None), ("  ", None), ("Auto", None)),
        *(("en-US", "en"), ("en_GB", "en"), ("EN-us", "en"), ("de-DE", "de"), ("de-Latn-AT", "de")),
        *(("ky-KG", "ky"), ("ga-IE", "ga"), ("English", "en"), ("tr", "tr")),
    ],
)
def test_languages_as_clients_write_them(client, sound, asked, sent, code):
    client.audio.transcriptions.create(file=sound, model="auto", language=sent)
    assert asked[0].language == code


class Known:
    """The languages of a genuine base, without its weights, and one of a pack."""

    backbone = SimpleNamespace(
        language_names={name: code for code, name in LANGUAGES.items()}, languages=set(LANGUAGES)
    )
    packs = {"kichwa": SimpleNamespace(info=SimpleNamespace(languages={"qu-EC": "Kichwa"}))}
    language_code = DualWhisper.language_code


@pytest.mark.parametrize(
    "sent, code",
    [
        *(("pt-BR", "pt"), ("zh-TW", "zh"), ("zh_CN", "zh"), ("zh-Hant-TW", "zh"), ("en-US", "en")),
        *(("PT-br", "pt"), ("qu-EC", "qu-EC"), ("QU-ec", "qu-EC"), ("Portuguese", "pt")),
    ],
)
def test_subtags_mean_the_language_that_is_known(sent, code):
    assert Known().language_code(sent) == code


@pytest.mark.parametrize("sent", ["xx-YY", "portuguese-BR", "-", "_", "-en", "x-en"])
def test_what_only_looks_like_a_language_is_refused(sent):
    with pytest.raises(PackError, match="No loaded pipeline knows the language"):
        Known().language_code(sent)


def verbose(url, sound, data: dict) -> dict:
    data = {"model": "north", "response_format": "verbose_json"} | data
    return WEB.post(
        f"{url}/v1/audio/transcriptions", data=data, files={"file": sound.open("rb")}
    ).json()


@pytest.mark.parametrize("name", ["timestamp_granularities[]", "timestamp_granularities"])
@pytest.mark.parametrize(
    "values, words, segments",
    [
        (["word", "segment"], True, True),
        ("word,segment", True, True),
        ("segment, word", True, True),
        ('["word"]', True, False),
        ("word", True, False),
        (["segment"], False, True),
        ("", False, True),
        ([], False, True),
    ],
)
def test_granularities_come_in_any_spelling(url, sound, name, values, words, segments):
    answer = verbose(url, sound, {name: values})
    assert (bool(answer.get("words")), "segments" in answer) == (words, segments)


def test_granularities_are_ignored_where_the_format_has_no_place(url, sound, asked):
    for kind in ("json", "text", "srt", "vtt"):
        data = {"timestamp_granularities[]": "word", "response_format": kind}
        answer = WEB.post(
            f"{url}/v1/audio/transcriptions", data=data, files={"file": sound.open("rb")}
        )
        assert answer.status_code == 200
    assert not any(request.options.words for request in asked), "times that nobody gets"
    wrong = verbose(url, sound, {"timestamp_granularities[]": "letter"})
    assert "'letter'; it must be segment, word or both" in wrong["error"]["message"]


@pytest.mark.parametrize(
    "sent, problem, param",
    [
        ({"include": ["logprobs"]}, "verbose_json has avg_logprob", "include[]"),
        ({"known_speaker_names": ["a"]}, "speakers are not told apart", "known_speaker_names[]"),
        ({"response_format": "diarized_json"}, "response_format", "response_format"),
        ({"extra_body": {"beam_size": 5}}, "'beam_size' is not known", "beam_size"),
        ({"extra_body": {"diarize": True}}, "the fields are chunking_strategy, file", "diarize"),
        ({"chunking_strategy": {"type": "other"}}, "must be auto, or an object", None),
        ({"chunking_strategy": {"type": "server_vad", "treshold": 1}}, "'treshold'", None),
        ({"chunking_strategy": {"type": "server_vad", "threshold": 7}}, "a probability", None),
        ({"extra_body": {"chunking_strategy": "[7]"}}, "must be auto", "chunking_strategy"),
        ({"extra_body": {"chunking_strategy": '{"type": []}'}}, "must be auto", None),
        ({"model": "north", "keywords": ["Naryn"]}, "for the base alone", "keywords[]"),
        ({"model": "north", "extra_body": {"hotwords": "x"}}, "for the base alone", "hotwords"),
        ({"extra_body": {"vad_filter": "perhaps"}}, "vad_filter", "vad_filter"),
    ],
)
def test_what_cannot_be_done_is_refused_and_never_dropped(client, sound, sent, problem, param):
    with pytest.raises(openai.BadRequestError) as refused:
        client.audio.transcriptions.create(**{"file": sound, "model": "auto"} | sent)
    assert problem in refused.value.message and refused.value.param in (param, "chunking_strategy")


def test_hotwords_and_keywords_stand_before_the_prompt_of_every_window(client, sound, asked):
    client.audio.transcriptions.create(
        file=sound,
        model="auto",
        prompt="It rains.",
        keywords=["Naryn", "Osh"],
        extra_body={"hotwords": "Bishkek Talas"},
    )
    client.audio.transcriptions.create(file=sound, model="auto", prompt="It rains.")
    with_words, without = (request.options for request in asked)
    assert with_words.decode.prompt == "Bishkek Talas Naryn, Osh It rains."
    assert with_words.carry_prompt and not without.carry_prompt
    assert without.decode.prompt == "It rains."


@pytest.mark.parametrize(
    "sent, vad",
    [
        ({"chunking_strategy": "auto"}, None),
        ({"extra_body": {"vad_filter": "false"}}, None),
        ({"extra_body": {"vad_filter": "true"}}, VadOptions()),
        ({"extra_body": {"vad_filter": True}, "chunking_strategy": "auto"}, VadOptions()),
        ({"chunking_strategy": {"type": "server_vad"}}, VadOptions()),
        (
            {
                "chunking_strategy": {
                    "type": "server_vad",
                    "threshold": 0.3,
                    "prefix_padding_ms": 300,
                    "silence_duration_ms": 700,
                }
            },
            VadOptions(threshold=0.3, speech_pad_ms=300, min_silence_duration_ms=700),
        ),
        (
            {"extra_body": {"chunking_strategy": '{"type": "server_vad", "threshold": 0.4}'}},
            VadOptions(threshold=0.4),
        ),
    ],
)
def test_speech_is_found_where_the_client_asks_for_it(client, sound, asked, sent, vad):
    pytest.importorskip("onnxruntime")
    client.audio.transcriptions.create(file=sound, model="auto", **sent)
    assert asked[0].options.vad == vad


def test_without_the_extra_vad_a_sentence_says_so(client, sound, monkeypatch):
    monkeypatch.setattr(fields, "find_spec", lambda name: None)
    for sent in (
        {"extra_body": {"vad_filter": True}},
        {"chunking_strategy": {"type": "server_vad"}},
    ):
        with pytest.raises(openai.BadRequestError, match="no voice activity detection"):
            client.audio.transcriptions.create(file=sound, model="auto", **sent)
    assert client.audio.transcriptions.create(file=sound, model="north", chunking_strategy="auto")


def test_segments_begin_with_a_space_but_where_none_is_written():
    def segment(text, language):
        return Segment(
            start=0,
            end=1,
            text=text,
            language=language,
            route="primary",
            avg_logprob=0.0,
            no_speech_prob=0.0,
            language_probs={},
            scores={},
            reason="",
        )

    english = [segment("One.", "en"), segment("Two.", "en")]
    chinese = [segment("一。", "zh"), segment("二。", "zh")]
    assert spaced_texts(english) == [" One.", " Two."]
    assert spaced_texts(chinese) == ["一。", "二。"]
    assert spaced_texts(english[:1] + chinese) == [" One.", " 一。", "二。"]
    assert spaced_texts([]) == []


def inference(url, sound, **data) -> httpx.Response:
    """As in the README of whisper.cpp's server."""
    files = {"file": (sound.name, sound.read_bytes(), "audio/wav")}
    return WEB.post(f"{url}/inference", data=data, files=files)


def test_whisper_cpp_clients_are_answered(url, model, sound, asked):
    plain = {"temperature": "0.0", "temperature_inc": "0.2", "response_format": "json"}
    assert inference(url, sound, **plain).json()["text"] == expected(model, sound)
    assert asked[0].options.decode.fallback.temperatures == pytest.approx(
        (0, 0.2, 0.4, 0.6, 0.8, 1)
    )
    assert inference(url, sound, response_format="text").text.strip() == expected(model, sound)
    assert "-->" in inference(url, sound, response_format="srt").text
    assert inference(url, sound, response_format="vtt").text.startswith("WEBVTT")
    told = inference(url, sound, response_format="verbose_json").json()
    assert told["task"] == "transcribe" and told["segments"][0]["text"].startswith(" ")
    inference(url, sound, temperature_inc="0", language="auto", temperature="0.4")
    assert asked[-1].options.decode.fallback.temperatures == (0.4,) and asked[-1].language is None
    inference(url, sound, language="en-US")
    assert asked[-1].language == "en"
    told = inference(url, sound, translate="true", response_format="verbose_json").json()
    assert (told["task"], told["language"]) == ("translate", "english")


@pytest.mark.parametrize(
    "data, param",
    [
        ({"temperature_inc": "-1"}, "temperature_inc"),
        ({"temperature": "x"}, "temperature"),
        ({"response_format": "lrc"}, "response_format"),
        ({"no_such": "1"}, "no_such"),
        ({"language": "klingon"}, None),
    ],
)
def test_whisper_cpp_clients_are_refused_with_a_sentence(url, sound, data, param):
    answer = inference(url, sound, **data)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param


def test_no_origin_may_read_an_answer_by_default(url):
    answer = WEB.get(f"{url}/v1/models", headers={"Origin": "https://a.example"})
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_the_origins_that_are_named_may(serve):
    with serve(cors_origins=("https://a.example",), key="k") as url:
        ask = {"Access-Control-Request-Method": "POST"}
        ask |= {"Access-Control-Request-Headers": "authorization"}
        for origin, status in (("https://a.example", 200), ("https://b.example", 400)):
            path = f"{url}/v1/audio/transcriptions"
            preflight = WEB.options(path, headers=ask | {"Origin": origin})
            assert preflight.status_code == status
            answer = WEB.get(f"{url}/v1/models", headers={"Origin": origin})
            allowed = origin if status == 200 else None
            assert answer.headers.get("access-control-allow-origin") == allowed
            assert preflight.headers.get("access-control-allow-origin") == allowed
            assert "access-control-allow-credentials" not in answer.headers
        assert (
            "authorization"
            in WEB.options(path, headers=ask | {"Origin": "https://a.example"}).headers[
                "access-control-allow-headers"
            ]
        )


def test_each_request_is_one_line_of_the_log(serve, sound, caplog):
    caplog.set_level("INFO", logger="dualasr.access")
    with serve(key="k") as url:
        bearer = {"Authorization": "Bearer k"}
        WEB.get(f"{url}/v1/models?key=k&secret=1", headers=bearer)
        WEB.get(f"{url}/v1/models", headers={"Authorization": "Bearer no"})
        files = {"file": (f"secret{sound.suffix}", sound.read_bytes())}
        text = WEB.post(
            f"{url}/v1/audio/transcriptions", files=files, headers=bearer, data={"model": "north"}
        ).json()["text"]
        WEB.get(f"{url}/no%0Asuch%00 path")
    lines = [record.getMessage() for record in caplog.records if record.name == "dualasr.access"]
    said = [line.rpartition(" ")[0].rpartition(" ")[0] for line in lines]
    assert said == [
        "GET /v1/models 200",
        "GET /v1/models 401",
        "POST /v1/audio/transcriptions 200",
        "GET /no%0Asuch%00%20path 404",
    ]
    everything = "\n".join(lines)
    assert text and text not in everything and "secret" not in everything
    assert all(line.endswith(" s") and float(line.split()[-2]) >= 0 for line in lines)


def test_an_error_in_openais_shape_for_whatever_is_not_there(url):
    for method, path in (("GET", "/"), ("POST", "/asr"), ("GET", "/v1"), ("PUT", "/inference")):
        error = json.loads(WEB.request(method, f"{url}{path}").content)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
