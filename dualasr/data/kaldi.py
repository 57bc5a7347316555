"""Read Kaldi data folders: wav.scp and text; segments, utt2spk and utt2lang where they exist."""

from pathlib import Path

from dualasr.data.utterance import (
    NOT_UTF8,
    Query,
    ReadNotes,
    Row,
    Rows,
    names_a_split,
    number,
    numbered_lines,
    row_of,
)

Table = dict[str, tuple[str, str]]  # key -> file:line, rest of the line


def find_kaldi(path: Path) -> list[Path]:
    """Return the folders with a wav.scp: the folder itself, else those below it or below data/."""
    if (path / "wav.scp").is_file():
        return [path]
    for pattern in ("*/wav.scp", "data/*/wav.scp"):
        if found := sorted(scp.parent for scp in path.glob(pattern)):
            return found
    return []


def kaldi_rows(root: Path, folders: list[Path], query: Query, notes: ReadNotes) -> Rows:
    """Yield the rows of Kaldi folders. A folder below `root` is a split of its own name.

    Relative paths of sound start at the folder or at `root`. An entry of wav.scp that is a command
    is refused and never run. An end of -1 in segments means the end of the recording.
    """
    for folder in folders:
        name = folder.resolve().name
        split = name if folder != root or names_a_split(name) else None
        if split is not None:
            notes.splits.add(split)
        if not query.takes_split(split):
            continue
        tables, bad = {}, []
        for file in ("wav.scp", "text", "segments", "utt2spk", "utt2lang"):
            tables[file], unusable = _table(folder / file)
            bad += unusable
        yield from (Row(source, reason, split) for source, reason in bad)
        sounds, texts, segments = tables["wav.scp"], tables["text"], tables["segments"]
        has_segments = (folder / "segments").is_file()
        rows = segments if has_segments else sounds
        yield from (
            Row(
                source,
                f"{id!r} is in text and not in {'segments' if has_segments else 'wav.scp'}",
                split,
            )
            for id, (source, _) in texts.items()
            if id not in rows
        )
        for id, (source, rest) in rows.items():
            language, speaker, text = (
                tables[file].get(id, ("", ""))[1] for file in ("utt2lang", "utt2spk", "text")
            )
            if not query.takes_language(language or query.default_language):
                continue
            start, end, audio = None, None, rest
            if has_segments:
                if len(parts := rest.split()) != 3:
                    reason = (
                        f"has {len(parts) + 1} columns, wanted utterance, recording, start and end"
                    )
                    yield Row(source, reason, split)
                    continue
                if parts[0] not in sounds:
                    yield Row(source, f"its recording {parts[0]!r} is not in wav.scp", split)
                    continue
                start = number(parts[1])
                end = None if number(parts[2]) == -1 else number(parts[2])
                audio = sounds[parts[0]][1]
            if audio.endswith("|") or audio.startswith("|"):
                reason = (
                    f"its sound is a command, which is never run: {audio[:60]}; write the sound"
                    " to a file first"
                )
                yield Row(source, reason, split)
                continue
            row = row_of(
                query,
                audio,
                [folder, root],
                text,
                language,
                split,
                id=id,
                speaker=speaker,
                start=start,
                end=end,
            )
            yield Row(source, row, split)


def _table(path: Path) -> tuple[Table, list[tuple[str, str]]]:
    """Return the lines of a file by their key, and file:line and reason of those without use.

    Both are empty if there is no such file.
    """
    rows, bad = {}, []
    for source, line in numbered_lines(path) if path.is_file() else ():
        try:
            key, _, rest = line.decode("utf-8-sig").strip().replace("\t", " ").partition(" ")
        except UnicodeDecodeError:
            bad.append((source, NOT_UTF8))
            continue
        if key in rows:
            bad.append((source, f"id {key!r} was used before"))
        else:
            rows[key] = source, rest.strip()
    return rows, bad
