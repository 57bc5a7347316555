"""What the docstrings of public functions and classes say.

Public are `dualasr.__all__` and whatever one sub-package (or the server) imports from another.
"""

import ast
import re
from pathlib import Path

import dualasr

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dualasr"
SECTIONS = re.compile(r"^\s*(Args|Attributes|Returns|Yields|Raises):\s*$", re.MULTILINE)
SHAPE = re.compile(r"\(\w+(, [^)]*|,)?\)")  # (samples,) or (batch, frames, width)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


TREES = {
    module_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")
}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 2 else "shared"


def imported() -> set[tuple[str, str]]:
    """(module, name) of what is imported across sub-packages, or by the server."""
    found = {(f"dualasr.{home}", name) for name, home in dualasr._HOMES.items()}
    trees = TREES | {
        f"serve.{path.stem}": ast.parse(path.read_text(encoding="utf-8"))
        for path in (ROOT / "serve").glob("*.py")
    }
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in TREES:
                if module.startswith("serve") or room(module) != room(node.module):
                    found |= {(node.module, alias.name) for alias in node.names}
    return found


def sections(text: str) -> dict[str, str]:
    parts = SECTIONS.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def faults_of_function(node: ast.FunctionDef, *, method: bool = False) -> list[str]:
    text = ast.get_docstring(node) or ""
    first = text.split("\n\n")[0]
    if not text:
        return ["has no docstring"]
    faults = []
    if not re.match(r"[A-Z`*\"(]", first) or not re.search(r"[.!?:]$", first):
        faults.append("its first paragraph is no sentence")
    held = sections(text)
    arguments = [*node.args.args[method:], *node.args.kwonlyargs]
    names = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
    if len(names) > 1:
        faults += [
            f"Args does not name {name}"
            for name in names
            if not re.search(rf"^\s*{name}: \S", held.get("Args", ""), re.MULTILINE)
        ]
        returned = "None" if node.returns is None else ast.unparse(node.returns)
        if returned != "None" and not {"Returns", "Yields"} & set(held):
            if not re.match(r"(Return|Yield|Give)", text):
                faults.append(f"does not say what it returns ({returned})")
    annotations = [a.annotation for a in arguments if a.annotation] + [node.returns or node]
    arrays = any(re.search(r"ndarray|Tensor", ast.unparse(a)) for a in annotations if a is not node)
    if arrays and not SHAPE.search(text):
        faults.append("gives no shape")
    for inner in ast.walk(node):
        if isinstance(inner, ast.Raise) and isinstance(inner.exc, ast.Call):
            error = ast.unparse(inner.exc.func)
            if error[0].isupper() and not re.search(rf"\b{error}\b", text):
                faults.append(f"does not say that it raises {error}")
    return faults


def faults_of_class(node: ast.ClassDef) -> list[str]:
    text = ast.get_docstring(node) or ""
    if not text:
        return ["has no docstring"]
    fields = [
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    ]
    fields = [name for name in fields if not name.startswith("_")]
    named = sections(text).get("Attributes", "")
    faults = []
    if len(fields) > 2:
        faults += [
            f"Attributes does not name {name}"
            for name in fields
            if not re.search(rf"^\s*{name}: \S", named, re.MULTILINE)
        ]
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
            if any(ast.unparse(d).endswith(("overload", "setter")) for d in item.decorator_list):
                continue
            static = any(ast.unparse(d) == "staticmethod" for d in item.decorator_list)
            faults += [
                f"{item.name}: {fault}" for fault in faults_of_function(item, method=not static)
            ]
    return faults


def faults() -> list[str]:
    found = []
    for module, name in sorted(imported()):
        for node in TREES[module].body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                found += [f"{module}.{name} {fault}" for fault in faults_of_function(node)]
            elif isinstance(node, ast.ClassDef) and node.name == name:
                found += [f"{module}.{name} {fault}" for fault in faults_of_class(node)]
    return found


def test_public_things_say_what_they_take_give_and_raise():
    assert len(imported()) > 150, "the imports were read"
    assert not faults()


if __name__ == "__main__":
    print("\n".join(faults()))
