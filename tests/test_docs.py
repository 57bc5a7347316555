"""The documents name every key, setting, module and command, and their links lead somewhere."""

import json
import re
import runpy
from dataclasses import fields
from pathlib import Path

import pytest
import soundfile

from dualasr.audio.load import Sound
from dualasr.cli.main import COMMANDS
from dualasr.data.fingerprints import fingerprint
from dualasr.data.utterance import Utterance
from dualasr.evaluation.compare import compare
from dualasr.evaluation.evaluate import EvaluationOptions, evaluate
from dualasr.evaluation.report import write_report
from dualasr.model.pack import Pack, PackInfo
from dualasr.model.selector import SelectorOptions
from dualasr.packs.format import read_pack, save_pack
from dualasr.packs.load import load_model
from dualasr.transcription.request import TranscribeOptions
from dualasr.transcription.transcribe import transcribe
from dualasr.transcription.writers import render

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def keys_of(value, names=frozenset()) -> set[str]:
    """Return the keys of a JSON value at any depth, without `names` of languages, packs, files."""
    if isinstance(value, dict):
        return set(value) - names | set().union(*(keys_of(item, names) for item in value.values()))
    return (
        set().union(*(keys_of(item, names) for item in value)) if isinstance(value, list) else set()
    )


def told(*pages: str) -> set[str]:
    """Return what pages show as code; of `a.b` also its parts."""
    text = "".join((DOCS / page).read_text(encoding="utf-8") for page in pages)
    codes = re.findall(r"`([^`\n]+)`", text)
    return {*codes, *(part for code in codes for part in code.split("."))}


def filled(page: Path) -> str:
    """Return a page as it is built."""
    text = runpy.run_path(str(DOCS / "hooks.py"))["on_page_markdown"](page.read_text("utf-8"))
    assert "{{" not in text
    return text


@pytest.fixture
def wav(clips, tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, clips[1], 16_000)
    return path


@pytest.fixture
def pack(backbone, make_secondary, wav, tmp_path):
    """A pack that was trained on the clip that it is measured on."""
    pack = Pack(PackInfo("north", {"ky": "Kyrgyz"}), make_secondary(backbone))
    save_pack(
        tmp_path / "north",
        pack,
        backbone,
        fingerprint([(Sound(wav), "Кар жаады.", "ky")], progress=False),
    )
    return tmp_path / "north"


def test_pack_format_names_every_key_and_file(pack):
    record = read_pack(pack)
    words, names = told("pack-format.md"), {"ky", *record["files"]}
    assert keys_of(record, names) - words - {"weights", "offset"} == set()
    assert '{"weights": [...], "offset": ...}' in (DOCS / "pack-format.md").read_text(
        encoding="utf-8"
    )
    assert {path.name for path in pack.iterdir()} <= words


def test_report_format_names_every_key(pack, tiny_folder, wav, tmp_path):
    model = load_model(tiny_folder, [pack])
    row = Utterance("a", "Кар жаады.", "ky", wav, None, "test")
    evaluation = evaluate(
        model, [row], EvaluationOptions(beam=1, probes=4, max_new_tokens=4), progress=False
    )
    write_report(tmp_path / "report.json", evaluation, "a command")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["contamination"]["leaks"] and report["contamination"]["clean"]
    names = frozenset({"ky", "north", "primary", *model.backbone.codes})
    words = told("report-format.md", "selector.md")
    assert keys_of(report, names) - words - {"weights", "offset"} == set()
    clip = json.loads((tmp_path / "report.clips.jsonl").read_text())
    assert keys_of(clip) - words == set()
    assert (
        keys_of(compare(tmp_path / "report.json", tmp_path / "report.json"), names) - words == set()
    )


def test_report_format_names_every_key_of_a_transcript(pack, tiny_folder, wav):
    model = load_model(tiny_folder, [pack])
    result = transcribe(model, wav, route="north", options=TranscribeOptions(words=True))
    transcript = json.loads(render(result, "json"))
    assert transcript["segments"][0]["words"]
    del transcript["scores"]  # said in words
    assert (
        keys_of(transcript, frozenset({"ky", "north", "primary", *model.backbone.codes}))
        - told("report-format.md")
        == set()
    )


def test_every_setting_of_the_selector_stands_in_both_pages():
    names = {field.name for field in fields(SelectorOptions)}
    defaults = SelectorOptions()
    for page in ("selector.md", "pack-format.md"):
        text = (DOCS / page).read_text(encoding="utf-8")
        assert all(re.search(rf"^\|[^|]*`{name}`", text, re.MULTILINE) for name in names), page
    text = (DOCS / "selector.md").read_text(encoding="utf-8")
    for name in (
        "tau",
        "beta",
        "discriminant_weight",
        "head_threshold",
        "max_candidates",
        "no_speech",
    ):
        assert f"| `{name}` | {getattr(defaults, name)} |" in text, name


def test_every_module_has_its_place_in_the_api():
    pages = "".join(filled(page) for page in (DOCS / "api").glob("*.md"))
    for path in (ROOT / "dualasr").rglob("*.py"):
        if not path.stem.startswith("__"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            assert len(re.findall(rf"^::: {re.escape(module)}$", pages, re.MULTILINE)) == 1, module


def test_the_page_of_commands_has_the_help_of_each():
    page = filled(DOCS / "command-line.md")
    for name, *_ in COMMANDS:
        assert f"\n## {name}\n" in page and f"usage: dualasr {name}" in page, name


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", *(f"docs/{page.name}" for page in DOCS.glob("*.md"))]
)
def test_links_lead_to_files(name):
    path = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if not re.match(r"https?:|#", link):
            assert (path.parent / link.partition("#")[0]).exists(), link
