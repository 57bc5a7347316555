"""The house's own rules: where a file may import from, and how many things stand at the top."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dualasr"
SHARED = {"__init__", "__main__", "atomic", "errors", "languages", "metrics", "parallel"}
SHARED |= {"progress", "text"}
# Who may import whom: a room may import every room before it in this order, and the files of
# SHARED.
ORDER = ("audio", "data", "model", "packs", "transcription", "evaluation", "training", "cli")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py")}


def imported_by(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it: also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {
            name for name in names if name in MODULES and not MODULES[name].stem == "__init__"
        }
    return found - {module_of(path)}


ARROWS = {module: imported_by(path) for module, path in MODULES.items()}


def room(module: str) -> str:
    """The sub-package of a module; `shared` for a file at the top."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 else "shared"


def test_imports_run_down_only():
    floors = {"shared": -1} | {name: floor for floor, name in enumerate(ORDER)}
    up = [
        f"{a} -> {b}"
        for a, found in ARROWS.items()
        for b in found
        if a != "dualasr.__main__" and floors[room(a)] < floors[room(b)]
    ]
    assert not up
    assert sum(map(len, ARROWS.values())) > 250  # the arrows were read


def test_no_circle():
    list(TopologicalSorter(ARROWS).static_order())  # raises CycleError, which names the circle


def test_nobody_below_imports_the_server_or_a_recipe():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "import recipes" not in text and "from recipes" not in text
        assert "dualasr_serve" not in text or path == PACKAGE / "cli" / "serve.py", path


def test_what_stands_at_the_top():
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert {path.name for path in entries if path.is_dir()} == set(ORDER)
    # and the marker py.typed
    assert {path.stem for path in entries if path.is_file()} - {"py"} == SHARED
    assert len([path for path in entries if path.is_file()]) <= 10


def test_sub_packages_are_empty_at_the_door():
    """An import in `__init__` would load torch for `dualasr --help`."""
    for name in ORDER:
        assert not (PACKAGE / name / "__init__.py").read_text(encoding="utf-8").strip()


def test_every_sub_package_is_installed():
    import tomllib

    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]["packages"]
    assert {name for name in packages if name.startswith("dualasr.")} == {
        f"dualasr.{name}" for name in ORDER
    }


def test_two_files_know_transformers_whisper():
    knows = {
        path.name
        for path in PACKAGE.rglob("*.py")
        if "WhisperForConditionalGeneration" in path.read_text()
    }
    assert knows == {"whisper.py", "whisper_formats.py"}


def test_the_documents_list_every_room_and_every_file():
    listed = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "serve").glob("*.py")]:
        assert path.stem.startswith("__") or f"`{path.name}`" in listed, path
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"dualasr/{name}/" in readme for name in ORDER)
