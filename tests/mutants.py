"""Mutation testing: make small wrong changes to a module, one at a time, and run its tests.

    python tests/mutants.py dualasr/model/selector.py [--most 100] [--seed 0] [--out rows.jsonl]

The changes are those of mutmut (`pip install mutmut`), made in a copy of the repository. mutmut's
own runner is not used: it leaves out properties and other decorated functions, and does not know
the modules of recipes/ and serve/ by the names under which the tests import them.

Left out are changes of sentences (text with a space, errors, the log) and of zip's strict=True. A
change is noticed if a test fails, or if the tests take five times as long.
"""

import argparse
import compileall
import difflib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = {  # by module, the tests that should notice
    "dualasr/metrics.py": ("test_metrics",),
    "dualasr/model/selector.py": ("test_selector",),
    "dualasr/model/interrupt.py": ("test_model",),
    "dualasr/model/secondary.py": ("test_secondary", "test_decoders"),
    "dualasr/model/whisper.py": ("test_whisper",),
    "dualasr/training/trunk_cache.py": ("test_trunk_cache",),
    "dualasr/training/dataset.py": ("test_dataset",),
    "dualasr/evaluation/hypothesis_cache.py": ("test_hypothesis_cache",),
    "dualasr/packs/format.py": ("test_pack", "test_selector", "test_decoders"),
    "serve/scheduler.py": ("test_serve_scheduler",),
    "serve/limits.py": ("test_serve_limits",),
    "recipes/fleurs/compare.py": ("test_fleurs_compare",),
}
FUNCTIONS = {  # what is published; the rest is trained for minutes by test_alternatives.py
    "recipes/fleurs/compare.py": ("fill", "summary", "to_markdown"),
}
HEAVY = (  # imported once, before the changes
    "transformers.models.whisper.modeling_whisper",
    "peft",
    "scipy.optimize",
    "librosa",
    "soundfile",
    "jiwer",
    "_pytest.pytester",
)
SLOW = (  # tests that take seconds and concern several modules
    "imported_when_asked_for",
    "cached_report",
    "killed_evaluation",
    "with_another_pack",
    "does_not_depend_on_its_batch",
    "in_parts",
)
LEFT_OUT = " and ".join(f"not {name}" for name in SLOW)
PYTEST = ["-x", "-q", "-o", "addopts=", "-m", "not slow and not ray", "-k", LEFT_OUT]
PYTEST += ["-p", "no:cacheprovider", "--assert=plain"]
SLOWER = 5  # times as long as the unchanged module: it hangs


def changes(path: Path, seed: int | None, functions: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield the source of a module with each change, and its number; in random order with a seed.

    To write the source of a change takes a moment, so it is done when it is asked for.
    """
    import libcst
    from mutmut.mutation.file_mutation import MutationVisitor
    from mutmut.mutation.mutators import mutation_operators
    from mutmut.mutation.pragma_handling import IgnoredCode

    class Visitor(MutationVisitor):
        """mutmut's own, which goes into decorated functions, too."""

        def _skip_node_and_children(self, node: libcst.CSTNode) -> bool:
            if isinstance(node, libcst.FunctionDef):
                node = node.with_changes(decorators=[])
            return super()._skip_node_and_children(node)

    source = path.read_text()
    wrapper = libcst.MetadataWrapper(libcst.parse_module(source))
    # mutmut's own finder of lines to ignore asks for a folder of the checkout's name
    visitor = Visitor(mutation_operators, IgnoredCode(set(), set(), set()))
    module = wrapper.visit(visitor)
    numbered, seen = list(enumerate(visitor.mutations)), set()
    if seed is not None:
        random.Random(seed).shuffle(numbered)
    for number, change in numbered:
        inside = change.contained_by_top_level_function
        if functions and (inside is None or inside.name.value not in functions):
            continue
        text = libcst.Module([]).code_for_node(change.original_node)
        if isinstance(change.original_node, libcst.BaseString) and " " in text:
            continue
        new = module.deep_replace(change.original_node, change.mutated_node).code
        if new not in seen and not is_left_out(difference(source, new)):
            seen.add(new)  # two changes may come to the same
            yield number, new


def difference(old: str, new: str) -> str:
    """Return the changed lines, with the number of the first."""
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0))[2:]
    return "\n".join(lines)


def lines_of(difference: str) -> str:
    """Return the changed lines without their number, which changes with the lines above."""
    return "\n".join(line for line in difference.splitlines() if not line.startswith("@@"))


def is_left_out(difference: str) -> bool:
    """Return whether a change is of no interest: of a message, or of a guard of zip."""
    removed, added = ([line[1:] for line in difference.splitlines() if line[0] == s] for s in "-+")
    unguarded = [re.sub(r",? *strict=\w+", "", line) for line in removed]
    guard = unguarded == [re.sub(r",? *(strict=\w+)?(?=\))", "", line) for line in added]
    return guard or any(word in difference for word in ("raise ", "log.", "Error("))


def run_tests(copy: Path, tests: list[str], limit: float | None) -> str:
    """Run tests in a copy of the repository; return "passed", "failed" or "slow"."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        os.environ |= {"PYTHONPATH": str(copy), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        sys.dont_write_bytecode = True
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os._exit(int(pytest.main([*PYTEST, *tests])))
    end = None if limit is None else time.monotonic() + limit
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "passed" if status == 0 else "failed"
        if end is not None and time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "slow"
        time.sleep(0.02)


def try_changes(
    module: str, most: int | None, seed: int, again: Path | None, also: Sequence[str]
) -> Iterator[dict]:
    """Yield a row for each change: its number, what became of it, and its lines."""
    path = ROOT / module
    old = path.read_text()
    sources = changes(path, None if most is None else seed, FUNCTIONS.get(module, ()))
    if again is not None:
        rows = [json.loads(line) for line in again.read_text().splitlines()]
        left = {lines_of(row["change"]) for row in rows if row["outcome"] == "passed"}
        sources = (pair for pair in sources if lines_of(difference(old, pair[1])) in left)
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when these are imported, before conftest.py
    for name in HEAVY:
        __import__(name)
    tests = [f"tests/{name}.py" for name in (*TESTS[module], *also)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "repository")
        listed = subprocess.check_output(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT
        )
        for name in listed.decode().split("\0")[:-1]:
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).exists():
                target.write_bytes((ROOT / name).read_bytes())
        (copy / "dualasr_serve").symlink_to("serve")
        compileall.compile_dir(copy, quiet=2)
        for stale in (copy / module).parent.glob(f"__pycache__/{path.stem}.*"):
            stale.unlink()
        began = time.monotonic()
        if run_tests(copy, tests, None) != "passed":
            raise SystemExit(f"{', '.join(tests)} fail without any change")
        limit = 10 + SLOWER * (time.monotonic() - began)
        print(f"the tests take {time.monotonic() - began:.1f} s", flush=True)
        for number, new in islice(sources, most):
            (copy / module).write_text(new)
            yield {
                "number": number,
                "outcome": run_tests(copy, tests, limit),
                "change": difference(old, new),
            }


def main() -> None:
    """Try the changes of one module, and print those that no test noticed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("module", choices=TESTS)
    parser.add_argument("--most", type=int, help="try a random sample of so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", type=Path, help="try what this file says was not noticed")
    parser.add_argument("--also", action="append", default=[], help="a further file of tests")
    parser.add_argument("--out", type=Path, help="write a JSON line for each change")
    args = parser.parse_args()
    rows = []
    for row in try_changes(args.module, args.most, args.seed, args.again, args.also):
        rows.append(row)
        if args.out:
            with args.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if row["outcome"] == "passed":
            print(f"not noticed: {row['number']}\n{row['change']}", flush=True)
    noticed = sum(row["outcome"] != "passed" for row in rows)
    print(f"{args.module}: {noticed} of {len(rows)} noticed")


if __name__ == "__main__":
    main()
