r"""Bring FLEURS to OUT/data/{config}/{train,dev,test}.tsv with its audio, and check it.

The paper's nineteen new languages; three languages of a folder; generated speech in four new
languages and the built-in base's five:

    python recipes/fleurs/prepare.py --out data/fleurs --hub google/fleurs
    python recipes/fleurs/prepare.py --out data/fleurs --folder /data/fleurs ky_kg or_in en_us
    python recipes/fleurs/prepare.py --out data/generated --generate

--folder    Links another FLEURS folder: data/{config}/{split}.tsv, and audio/{split}/ or
            audio/{split}.tar.gz, which is unpacked under OUT. A folder that is OUT itself is used
            in place. Another corpus is laid out as FLEURS, and its recordings are linked.
--hub       Fetches the hub's parquet copy. This was not run here: the hub cannot be reached from
            our machines.
--generate  Speaks sentences with espeak-ng.

A language appears whole or not at all, and what is there stays: a stopped run goes on. Every
recording is read once, for its fingerprint (OUT/fingerprints). The report goes to the screen, as
Markdown, and to OUT/prepare.json. It lists clips and hours, rows that cannot be used and why, and
leaks: clips of dev and test that are in the language's own train or dev, and test clips that are in
the training data of any other language, as a sentence or as a recording, exactly or nearly.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from dualasr.atomic import atomic_file
from dualasr.audio.load import SAMPLE_RATE, audio_duration, load_audio
from dualasr.data.corpus import Corpus, load_corpus
from dualasr.data.fingerprints import FORMAT, Fingerprints, fingerprint, join
from dualasr.data.fleurs import find_fleurs
from dualasr.data.synthetic import NUMBERS, GenerateOptions, speak_config
from dualasr.errors import (
    AudioError,
    CorpusError,
    DualasrError,
    MissingExtraError,
    PackError,
    RunError,
)
from dualasr.evaluation.contamination import audit
from dualasr.evaluation.markdown import markdown_table
from dualasr.languages import NINETEEN, language_of

SPLITS = ("train", "dev", "test")
SHOWN = 20  # skipped rows and leaks on the screen; prepare.json has all of them
Fill = Callable[[str, Path], None]  # puts the tables and audio of a config into an empty folder


def configs_of(names: Sequence[str]) -> list[str]:
    """Find FLEURS configs by names or codes.

    Raises CorpusError for one that is unknown or named twice.
    """
    configs = [language_of(name).config for name in names]
    if twice := [config for config, count in Counter(configs).items() if count > 1]:
        raise CorpusError(f"{', '.join(twice)}: named more than once; name each language once.")
    return configs


def link_from(source: Path, out: Path) -> Fill:
    """Link a FLEURS folder, which is only read, or lay out a corpus as one.

    Raises CorpusError where it lacks a config.
    """
    found = {folder.resolve().name: folder.resolve() for folder in find_fleurs(source)}
    if not found:
        return lay_out(source)

    def fill(config: str, part: Path) -> None:
        if config not in found:
            near = get_close_matches(config, found) or sorted(found)
            raise CorpusError(
                f"{source}: has no {config}; there is {', '.join(near[:5])}. Name only what is"
                " there."
            )
        (part / "audio").mkdir()
        for split in SPLITS:
            for name in (f"{split}.tsv", f"audio/{split}", f"audio/{split}.tar.gz"):
                if (target := found[config] / name).exists():
                    if target.is_relative_to(out.resolve()):  # so that OUT can be moved
                        target = Path(
                            os.path.relpath(target, (out.resolve() / "data" / config / name).parent)
                        )
                    (part / name).symlink_to(target)

    return fill


def lay_out(source: Path) -> Fill:
    """Write FLEURS' tables for a corpus of another layout, and link its recordings.

    A stretch of a recording is cut out.
    """

    def fill(config: str, part: Path) -> None:
        code, rows = language_of(config).code, {}
        for split in SPLITS:
            try:
                rows[split] = load_corpus(
                    source, split, languages=[code], default_language="und"
                ).utterances
            except CorpusError as error:
                reason = error
        if not rows:
            raise reason
        for split, utterances in rows.items():
            (part / "audio" / split).mkdir(parents=True)
            with (part / f"{split}.tsv").open("w", encoding="utf-8", newline="\n") as table:
                for k, u in enumerate(utterances):
                    sound = (
                        part
                        / "audio"
                        / split
                        / (f"{k:05}{u.audio.suffix}" if u.sound.is_whole else f"{k:05}.flac")
                    )
                    if u.sound.is_whole:
                        sound.symlink_to(u.audio.resolve())
                    else:
                        soundfile.write(sound, load_audio(u.sound), SAMPLE_RATE)
                    # 0 for a sound that cannot be read; the report lists it
                    text, samples = " ".join(u.text.split()), 0
                    with suppress(AudioError):
                        samples = round((u.duration or audio_duration(u.sound)) * SAMPLE_RATE)
                    table.write(table_row(k, sound.name, text, text.lower(), samples, "OTHER"))

    return fill


def fetch_from(hub: str) -> Fill:
    """Write the hub's parquet copy of a data set that has a script.

    Raises CorpusError where it cannot be fetched. It was not run here: the hub cannot be reached
    from our machines. `write_parquet` was, on a file of the same columns.
    """

    def fill(config: str, part: Path) -> None:
        converted = f"hf://datasets/{hub}@refs%2Fconvert%2Fparquet/{config}"
        names = {"train": "train", "dev": "validation", "test": "test"}
        try:
            write_parquet(
                {split: f"{converted}/{name}/*.parquet" for split, name in names.items()}, part
            )
        except ImportError as error:
            raise MissingExtraError("datasets", "datasets") from error
        except Exception as error:  # whatever `datasets`, the hub's client and the network raise
            why = str(error).strip().split("\n")[0]
            raise CorpusError(
                f"{hub}: {config} cannot be fetched ({type(error).__name__}: {why}); where the hub"
                " is out of reach, run this on a machine that reaches it, copy its OUT folder"
                " here, and run it here again, which then fetches nothing."
            ) from error

    return fill


def write_parquet(files: dict[str, str], part: Path) -> None:
    """Write FLEURS' tables and audio from parquet files by split; the sound is not decoded.

    The files are paths, patterns or addresses.
    """
    from datasets import Audio, load_dataset

    for split, path in files.items():
        # files without a split's name are in the split train
        rows = load_dataset("parquet", data_files=path, split="train", streaming=True)
        (part / "audio" / split).mkdir(parents=True)
        with (part / f"{split}.tsv").open("w", encoding="utf-8", newline="\n") as table:
            for row in tqdm(
                rows.cast_column("audio", Audio(decode=False)),
                desc=f"{split}.tsv",
                unit="clip",
                disable=None,
            ):
                name = Path(row["audio"]["path"] or row["path"]).name
                (part / "audio" / split / name).write_bytes(row["audio"]["bytes"])
                raw, text = (
                    re.sub(r"[\t\r\n]+", " ", row[key])
                    for key in ("raw_transcription", "transcription")
                )
                gender = ("MALE", "FEMALE", "OTHER")[row["gender"]]
                table.write(table_row(row["id"], name, raw, text, row["num_samples"], gender))


def table_row(ident: int, name: str, raw: str, text: str, samples: int, gender: str) -> str:
    """Return a line of FLEURS' tables; texts hold no tab and no line break."""
    return (
        f"{ident}\t{name}\t{raw}\t{text}\t{' '.join(text.replace(' ', '|'))}\t{samples}\t{gender}\n"
    )


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def bring(out: Path, configs: Sequence[str], fill: Fill) -> None:
    """Fill the config folders that do not exist yet, each whole or not at all."""
    (out / "data").mkdir(parents=True, exist_ok=True)
    for config in configs:
        folder = out / "data" / config
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{config}-") as temporary:
                part = Path(temporary, config)
                part.mkdir()
                fill(config, part)
                os.rename(part, folder)
            say(f"{folder}")


def look(out: Path, configs: Sequence[str]) -> dict:
    """Report on config folders: "configs" and "leaks".

    Raises CorpusError for a split without a usable row.
    """
    about, prints, ids = {}, {}, {}
    for config in configs:
        folder, splits = out / "data" / config, {}
        for split in (split for split in SPLITS if (folder / f"{split}.tsv").is_file()):
            corpus = load_corpus(folder, split)
            own = fingerprints_of(corpus, out / "fingerprints", f"{config}-{split}")
            ids[config, split], prints[config, split] = [u.id for u in corpus.utterances], own
            missing = [
                row
                for row in corpus.skipped
                if re.fullmatch("audio file .* is missing", row.reason)
            ]
            splits[split] = {
                "clips": len(corpus.utterances),
                "hours": corpus.hours,
                "audio_missing": len(missing),
                "audio_unreadable": [ids[config, split][i] for i in np.flatnonzero(own.audio == 0)],
                "skipped": [asdict(row) for row in corpus.skipped],
            }
        if not splits:
            raise CorpusError(
                f"{folder}: has no train.tsv, dev.tsv or test.tsv; delete the folder, and it is"
                " made again."
            )
        about[config] = asdict(language_of(config)) | {"splits": splits}
    return {"configs": about, "leaks": find_leaks(prints, ids)}


def fingerprints_of(corpus: Corpus, folder: Path, name: str) -> Fingerprints:
    """Compute a split's fingerprints; `folder` keeps them until a text or a sound changes."""
    digest = hashlib.sha256(FORMAT.encode())
    for u in corpus.utterances:
        stat = u.audio.stat()
        digest.update(repr((u.id, u.text, stat.st_size, stat.st_mtime_ns)).encode())
    path = folder / f"{name}-{digest.hexdigest()[:16]}.safetensors"
    if path.exists():
        with suppress(PackError):  # damaged: it is made again
            return Fingerprints.load(path)
    say(f"{name}: fingerprints of {len(corpus.utterances)} clips")
    made = fingerprint([(u.sound, u.text, u.language) for u in corpus.utterances])
    folder.mkdir(exist_ok=True)
    for former in folder.glob(f"{name}-*.safetensors"):
        former.unlink()
    made.save(path)
    return made


def find_leaks(
    prints: dict[tuple[str, str], Fingerprints], ids: dict[tuple[str, str], list[str]]
) -> list[dict]:
    """Find clips of dev and test that are in training data.

    Test clips are compared with every config's train and their own config's dev, dev clips with
    their own config's train.

    "clip" and "match" are ids: config/split/file stem.
    """
    tests = [key for key in prints if key[1] == "test"]
    pairs = []
    for config, split in prints:
        if split == "train" and tests:
            # all tests at once: each train is indexed once
            pairs.append((tests, (config, split)))
        within = {"dev": "train", "test": "dev"}.get(split)
        if (config, within) in prints:
            pairs.append(([(config, split)], (config, within)))
    leaks = []
    for queries, held in tqdm(pairs, desc="leaks", unit="audit", disable=None):
        names = [ident for key in queries for ident in ids[key]]
        for leak in audit(join([prints[key] for key in queries]), {held[0]: prints[held]}):
            leaks.append(
                {
                    "clip": names[leak.clip],
                    "match": ids[held][leak.match],
                    "kind": leak.kind,
                    "similarity": round(leak.similarity, 3),
                    "words": leak.words,
                }
            )
    return sorted(leaks, key=lambda leak: (leak["clip"], leak["match"]))


def to_markdown(report: dict) -> str:
    """Return the report as Markdown."""
    rows, skipped, unreadable = [], [], []
    for config, about in report["configs"].items():
        for split, found in about["splits"].items():
            counts = (
                found["clips"],
                f"{found['hours']:.2f}",
                len(found["skipped"]),
                found["audio_missing"],
            )
            rows.append(
                (
                    f"{config} {split}",
                    about["name"],
                    *map(str, counts),
                    str(len(found["audio_unreadable"])),
                )
            )
            skipped += [f"{row['source']}: {row['reason']}" for row in found["skipped"]]
            unreadable += found["audio_unreadable"]
    head = (
        "split",
        "language",
        "clips",
        "hours",
        "rows skipped",
        "of them without audio file",
        "clips unreadable",
    )
    lines = [
        "# FLEURS",
        "",
        f"From {report['source']}. Hours by the tables.",
        "",
        *markdown_table(head, rows),
    ]
    lines += _list("Skipped rows", skipped) + _list("Unreadable audio", unreadable)
    lines += ["## Leaks", ""]
    if not report["leaks"]:
        return "\n".join(
            [
                *lines,
                (
                    "None: no clip of dev or test is in a train or dev above, as sentence or"
                    " recording."
                ),
                "",
            ]
        )
    pairs = Counter(
        tuple(" ".join(leak[key].split("/")[:2]) for key in ("clip", "match")) + (leak["kind"],)
        for leak in report["leaks"]
    )
    lines += markdown_table(
        ("clips of", "are in", "as", "count"),
        [(*pair, str(count)) for pair, count in pairs.items()],
    )
    return "\n".join(
        lines
        + _list(
            "Leaked clips",
            [
                f"{leak['clip']} = {leak['match']}: {leak['kind']}, similarity"
                f" {leak['similarity']:.2f}, {leak['words']} words"
                for leak in report["leaks"]
            ],
        )
    )


def _list(title: str, items: Sequence[str]) -> list[str]:
    more = [f"- and {len(items) - SHOWN} more, in prepare.json"] if len(items) > SHOWN else []
    return [f"## {title}", "", *(f"- {item}" for item in items[:SHOWN]), *more, ""] if items else []


def write_json(path: Path, report: dict) -> None:
    with atomic_file(path) as part:
        part.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def prepare(
    out: Path,
    names: Sequence[str],
    hub: str | None = None,
    folder: Path | None = None,
    command: str = "",
    spoken: GenerateOptions = GenerateOptions(),
) -> dict:
    """Bring languages to `out` from a hub id or a folder, or generate them, and report on them.

    Raises CorpusError for languages, a source or a table that cannot be used, RunError where `out`
    is from another source or cannot be written.
    """
    configs = configs_of(names)
    synthesis = (
        "speech synthesis"
        f" ({', '.join(f'{key} {value}' for key, value in asdict(spoken).items() if value)})"
    )
    source = (
        f"the hub's {hub}" if hub else f"the folder {folder.resolve()}" if folder else synthesis
    )
    record, former = out / "prepare.json", None
    try:
        (out / "data").mkdir(parents=True, exist_ok=True)
        if record.exists() and any((out / "data").glob("[!.]*")):
            with suppress(ValueError, KeyError):
                former = json.loads(record.read_text(encoding="utf-8"))["source"]
        if former and folder and folder.resolve() == out.resolve():
            source = former
        if former not in (None, source):
            raise RunError(f"{out} was made from {former}; choose another --out for {source}.")
        # first of all, so that a stopped run cannot go on from another source
        if former is None:
            write_json(record, {"source": source, "configs": {}, "leaks": None})
        if missing := [config for config in configs if not (out / "data" / config).exists()]:
            speak = partial(speak_config, options=spoken)
            bring(
                out,
                missing,
                fetch_from(hub) if hub else link_from(folder, out) if folder else speak,
            )
        report = {"source": source, "command": command, **look(out, configs)}
        write_json(record, report)
    except OSError as error:
        where, why = error.filename or out, error.strerror or error
        raise RunError(f"{where}: {why}; free some space or choose another --out.") from error
    return report


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "languages",
        nargs="*",
        metavar="CONFIG",
        help="as ky_kg or ky (the nineteen; --generate: all it can)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--hub", metavar="NAME", help="google/fleurs")
    source.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="a FLEURS folder, or another corpus; it is linked",
    )
    source.add_argument(
        "--generate", action="store_true", help="generated speech instead of FLEURS"
    )
    parser.add_argument(
        "--readings", type=int, default=2, help="of generated training sentences (%(default)s)"
    )
    parser.add_argument(
        "--test-readings", type=int, default=5, help="of generated test sentences (%(default)s)"
    )
    parser.add_argument(
        "--text",
        type=Path,
        metavar="DIR",
        help="more sentences to be read for training: DIR/*_<code>.txt",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the generated speech (%(default)s)")
    args = parser.parse_args(argv)
    command = shlex.join(
        ["python", "recipes/fleurs/prepare.py", *(sys.argv[1:] if argv is None else argv)]
    )
    try:
        spoken = GenerateOptions(args.readings, args.test_readings, args.text, args.seed)
        languages = args.languages or (NUMBERS if args.generate else NINETEEN)
        print(
            to_markdown(prepare(args.out, list(languages), args.hub, args.folder, command, spoken))
        )
    except DualasrError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("prepare: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
