"""A genuine Whisper on real speech: every face of the product once.

The base is what DUALASR_REAL_BASE names (a whisper-base, in any format), or is put together by
../shared/tools/real_base.py; without either, and without the recordings, these tests are skipped.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
import torch
from serving import serving

from dualasr.audio.load import SAMPLE_RATE, load_audio
from dualasr.cli.main import main
from dualasr.data.corpus import load_corpus
from dualasr.metrics import word_errors
from dualasr.model.dual_whisper import DecodeOptions
from dualasr.model.selector import PRIMARY
from dualasr.model.whisper import Backbone
from dualasr.packs.load import load_model
from dualasr.text import normalise
from dualasr.transcription.request import TranscribeOptions
from dualasr.transcription.transcribe import transcribe

pytestmark = pytest.mark.real

SHARED = Path(__file__).resolve().parents[2] / "shared"
DATA = SHARED / "data"
COUNTRY = "And so my fellow Americans, ask not what your country can do for you"


@pytest.fixture(scope="module")
def base() -> str:
    """A genuine whisper-base."""
    if given := os.environ.get("DUALASR_REAL_BASE"):
        return given
    tool = SHARED / "tools" / "real_base.py"
    if not tool.is_file():
        pytest.skip("no genuine Whisper: DUALASR_REAL_BASE is not set")
    made = subprocess.run([sys.executable, tool], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"{tool.name} cannot put a Whisper together: {made.stderr[-300:]}")
    return made.stdout.split()[-1]


@pytest.fixture(scope="module", autouse=True)
def threads():
    """Use all cores: these layers are large enough."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


def clips(name: str, split: str, **query):
    if not (DATA / name).is_dir():
        pytest.skip(f"shared/data/{name} is not there")
    return list(load_corpus(DATA / name, split, **query).utterances)


@pytest.fixture(scope="module")
def jfk() -> Path:
    [clip] = [clip for clip in clips("misc", "test") if clip.id == "jfk"]
    return clip.sound.path


@pytest.fixture(scope="module")
def pack(base, tmp_path_factory) -> Path:
    """A Kichwa pack after 20 steps on real recordings, with Swahili as negatives."""
    folder = tmp_path_factory.mktemp("real")
    rows = {"train": clips("kichwa", "train")[:24], "dev": clips("kichwa", "dev")[:3]}
    others = [clip for clip in clips("swahili", "train") if clip.duration < 8][:4]
    for name, chosen in (("kichwa", rows), ("others", {"train": others})):
        (folder / name).mkdir()
        lines = [
            {"audio": str(c.sound.path), "text": c.text, "lang": c.language, "split": split}
            for split, of_split in chosen.items()
            for c in of_split
        ]
        table = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
        (folder / name / "manifest.jsonl").write_text(table, encoding="utf-8")
    command = ["add-language", "--base", base, "--corpus", str(folder / "kichwa")]
    command += ["--language", "qu-EC", "--negatives", str(folder / "others"), "--decoder", "ctc"]
    command += ["--no-generated-negatives"]
    command += ["--steps", "20", "--batch", "8", "--variants", "1", "--out", str(folder / "pack")]
    assert main(command) == 0
    return folder / "pack"


@pytest.fixture(scope="module")
def model(base, pack):
    return load_model(base, [pack])


def test_the_primary_route_is_plain_transformers(base, model):
    """Token for token, with a pack loaded, on five languages and read books."""
    backbone = model.backbone
    chosen = [*clips("fleurs_mini", "test")[::5], *clips("misc", "test")]
    chosen = [c for c in chosen if c.duration <= 30 and c.language in backbone.languages]
    assert len(chosen) > 20 and len({c.language for c in chosen}) >= 5
    heard: dict[str, list[tuple[str, str]]] = {}
    for i in range(0, len(chosen), 8):
        batch = chosen[i : i + 8]
        sounds = [load_audio(clip.sound) for clip in batch]
        mel = backbone.extractor(
            sounds, sampling_rate=SAMPLE_RATE, return_tensors="pt"
        ).input_features
        audio = model.encode_audio(sounds)
        results = model.transcribe_encoded(audio, route=PRIMARY, options=DecodeOptions(beam=1))
        tags = [f"<|{result.language}|>" for result in results]
        plain = backbone.model.generate(mel, language=tags, task="transcribe")
        for clip, result, tokens in zip(batch, results, plain.tolist(), strict=True):
            end = backbone.special_ids.end
            count = tokens.index(end) if end in tokens else len(tokens)
            ours = [token for token in result.tokens if token != end]
            assert ours == [token for token in tokens[:count] if token < end], clip.id
            heard.setdefault(clip.language, []).append((clip.text, result.text))
    rates = {
        code: word_errors(
            *(([normalise(t, "whisper") for t in side]) for side in zip(*pairs, strict=True))
        ).rate
        for code, pairs in heard.items()
    }
    assert rates["en"] < 0.25 and rates["es"] < 0.35, rates


def test_a_pack_of_twenty_steps_loads_and_transcribes(model, pack):
    [clip] = [c for c in clips("kichwa", "dev") if 3 < c.duration < 6][:1]
    again = load_model(model.backbone.name, [pack])
    first, second = (transcribe(one, clip.sound, language="qu-EC") for one in (model, again))
    assert first.text == second.text and {s.route for s in first.segments} <= {"pack"}


@pytest.mark.parametrize("kind", ["silence", "white", "hum"])
def test_where_nobody_speaks_there_is_no_text(model, kind):
    at = np.arange(12 * SAMPLE_RATE) / SAMPLE_RATE
    sound = {
        "silence": np.zeros(len(at)),
        "white": 0.05 * np.random.default_rng(0).standard_normal(len(at)),
        "hum": 0.1 * np.sin(2 * np.pi * 50 * at) + 0.05 * np.sin(2 * np.pi * 150 * at),
    }[kind].astype(np.float32)
    assert transcribe(model, sound).text == ""


def test_words_stand_where_they_are_said(model, jfk):
    """The speech has pauses before "ask not" (3.3 s) and before "ask what you can do" (8.3 s)."""
    found = transcribe(model, jfk, options=TranscribeOptions(words=True))
    words = [word for segment in found.segments for word in segment.words or ()]
    said = [normalise(word.word, "whisper") for word in words]
    assert normalise(found.text, "whisper").startswith(normalise(COUNTRY, "whisper"))
    asks = [words[i] for i, word in enumerate(said) if word == "ask"]
    assert [word.start for word in asks] == [
        pytest.approx(3.3, abs=0.3),
        pytest.approx(8.3, abs=0.5),
    ]
    ends = [word.end for word in words]
    assert ends == sorted(ends) and ends[-1] <= 11.01
    sound = load_audio(jfk)
    loud = [np.abs(sound[int(w.start * 16_000) : int(w.end * 16_000)]).max() for w in words]
    assert min(loud) > 0.05


def test_the_page_and_the_endpoint_answer(model, jfk, tmp_path):
    pytest.importorskip("gradio")
    from dualasr_serve.app import Settings, create_app
    from dualasr_serve.scheduler import Scheduler

    scheduler = Scheduler(model)
    app = create_app(scheduler, lambda: scheduler.model, tmp_path, Settings())
    wav = tmp_path / "jfk.wav"
    soundfile.write(wav, load_audio(jfk), SAMPLE_RATE)
    try:
        with serving(app) as url, httpx.Client(base_url=url, timeout=120) as client:
            answer = client.post(
                "/v1/audio/transcriptions",
                files={"file": ("jfk.wav", wav.read_bytes())},
                data={"response_format": "verbose_json"},
            ).raise_for_status()
            assert answer.json()["language"] == "en" and COUNTRY.lower() in words_in(answer)
            uploaded = client.post(
                "/gradio_api/upload", files={"files": ("jfk.wav", wav.read_bytes())}
            ).json()[0]
            config = client.get("/config").json()
            [button] = [
                c["id"] for c in config["components"] if c["props"].get("elem_id") == "transcribe"
            ]
            events = [e["id"] for e in config["dependencies"] if e["targets"][0][0] == button]
            file = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
            asked = {"session_hash": "s", "fn_index": events[0], "data": [file, None, None, None]}
            client.post("/gradio_api/queue/join", json=asked).raise_for_status()
            page = client.get("/gradio_api/queue/data", params={"session_hash": "s"})
            assert COUNTRY.lower() in words_in(page) and "English" in page.text
    finally:
        scheduler.close(drop=True)


def words_in(answer: httpx.Response) -> str:
    return answer.text.lower()


def test_a_folder_without_a_generation_config_knows_its_languages(model, tmp_path):
    """As Whispers have it that were fine-tuned with an early version of transformers."""
    backbone = model.backbone
    folder = tmp_path / "old"
    for part in (backbone.model, backbone.tokenizer, backbone.extractor):
        part.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    old = Backbone.load(folder)
    assert old.languages == backbone.languages and len(old.languages) == 99
    assert old.special_ids.prompt == backbone.special_ids.prompt and old.tells_time
    assert old.checksum == backbone.checksum
