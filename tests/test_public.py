"""The public face, and floors that imports do not cross."""

import ast
from pathlib import Path

import dualasr

FLOORS = [
    {"errors", "whole_file", "languages", "sound_files", "audio", "vad", "windows", "text", "utterance", "tables", "segments",
     "kaldi", "hf_datasets", "corpus", "metrics", "synth", "generate", "augment", "cores", "contamination", "transcript",
     "subtitles", "writers"},
    {"search", "tokenizer", "backbone", "las", "whisper_decoder", "tag_decoder", "secondary", "selector",
     "language_statistics", "alignment", "attention_alignment", "fallback"},
    {"pack", "pack_folder", "bidding", "model"},
    {"trunk_cache", "training", "training_data", "language_head", "calibration", "set_calibration",
     "calibrating", "adding", "planning", "recording", "transcription",
     "evaluation", "scoring",
     "report", "report_content", "report_html", "compare", "quickstart", "corpus_check", "corpus_split", "answers",
     "hallucination", "continual", "word_times", "export"},
    {"cli", "packs_cli", "transcribe_flags", "transcribe_cli", "ray_transcription", "__main__", "__init__"},
]


def test_all_is_sorted_and_there():
    assert dualasr.__all__ == sorted(dualasr.__all__)
    assert all(callable(getattr(dualasr, name)) for name in dualasr.__all__)


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {name.split(".")[1] for name in names if name.startswith("dualasr.")}


def test_imports_go_down_the_floors_without_circles():
    folder = Path(dualasr.__file__).parent
    graph = {path.stem: imports_of(path) for path in folder.glob("*.py")}
    assert set(graph) == set().union(*FLOORS), "a new room needs its floor here"
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    for name, used in graph.items():
        assert all(floor[other] <= floor[name] for other in used), (name, used)

    def reaches(name: str, seen: tuple[str, ...]) -> None:
        assert name not in seen, f"a circle: {' -> '.join((*seen, name))}"
        for other in graph[name]:
            reaches(other, (*seen, name))

    for name in graph:
        reaches(name, ())


def test_only_the_backbone_knows_transformers_whisper():
    folder = Path(dualasr.__file__).parent
    knows = {path.stem for path in folder.glob("*.py") if "WhisperForConditionalGeneration" in path.read_text()}
    assert knows == {"backbone"}


def test_the_readme_lists_every_file():
    readme = Path(__file__).parents[1] / "README.md"
    listed = readme.read_text()
    house = Path(dualasr.__file__).parents[1]
    for path in [*house.glob("dualasr/*.py"), *house.glob("serve/*.py")]:
        assert path.stem.startswith("__") or f"  {path.name} " in listed, path.name
