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

_FILES = ("wav.scp", "text", "segments", "utt2spk", "utt2lang")
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
    is refused and never run. An end of -1 in segments means the end of the recording. A channel is
    read only where it is the recording's only one.
    """
    counts: dict[Path, int] = {}
    for folder in folders:
        name = folder.resolve().name
        split = name if folder != root or names_a_split(name) else None
        if split is not None:
            notes.splits.add(split)
        if not query.takes_split(split):
            continue
        tables, bad = {}, []
        for file in (*_FILES, "reco2file_and_channel"):
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
            recording, channel = id, ""
            if has_segments:
                if len(parts := rest.split()) not in (3, 4):
                    reason = (
                        f"has {len(parts) + 1} columns, wanted utterance, recording, start, end and"
                        " maybe channel"
                    )
                    yield Row(source, reason, split)
                    continue
                if parts[0] not in sounds:
                    yield Row(source, f"its recording {parts[0]!r} is not in wav.scp", split)
                    continue
                recording, channel = parts[0], "".join(parts[3:])
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
            # of the files for scoring; channels are counted from 1 there, or are A and B
            _, named = tables["reco2file_and_channel"].get(recording, ("", ""))
            wrong = _wrong_channel(
                [folder, root], audio, channel, "".join(named.split()[1:]), counts
            )
            if wrong:
                yield Row(source, wrong, split)
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


def _wrong_channel(
    roots: list[Path], audio: str, channel: str, named: str, counts: dict[Path, int]
) -> str | None:
    """Return why the channel of a row cannot be read; None if it can, or if the row names none.

    Args:
        roots: Folders in which the sound is looked for.
        audio: Path of the sound.
        channel: The channel in segments, counted from 0; "" for none.
        named: The channel in reco2file_and_channel: A, B, or counted from 1; "" for none.
        counts: A cache, which this function fills: the number of channels of each recording.
    """
    if not channel and not named:
        return None
    path = next((root / audio for root in roots if (root / audio).is_file()), None)
    if path is not None and path not in counts:
        counts[path] = _channels(path)
    count = counts.get(path, 0) if path else 0
    if not count:
        return None  # the sound is missing, or cannot be read, which another check says
    if channel and not (channel.isascii() and channel.isdigit() and int(channel) < count):
        return f"its channel is {channel!r}; the recording has {count}, counted from 0"
    if count > 1:
        return (
            f"names channel {channel or named} of {count}, and the channels of a file cannot be"
            " read apart; write each to a file of its own first"
        )
    return None


def _channels(path: Path) -> int:
    """Return the number of channels of a recording; 0 if libsndfile cannot tell."""
    import soundfile

    try:
        return soundfile.info(path).channels
    except (soundfile.SoundFileError, TypeError):
        return 0


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
