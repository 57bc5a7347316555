"""Read corpora of Hugging Face `datasets`: what save_to_disk wrote, parquet files, a hub id."""

import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dualasr.atomic import atomic_file, cache_folder
from dualasr.data.audiofolder import split_in
from dualasr.data.tables import GUESSES, match_columns, row_of_fields
from dualasr.data.utterance import Columns, Query, ReadNotes, Row, Rows, names_a_split
from dualasr.errors import CorpusError, MissingExtraError

_HUB = re.compile(r"(?:datasets:|hf:/+datasets/)([^:]+?)/?(?::(.+))?")


def is_saved(path: Path) -> bool:
    """Whether save_to_disk wrote this folder."""
    return any(
        (path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json", "state.json")
    )


def is_hub_id(path: str | Path) -> bool:
    """Whether this is `datasets:owner/name` or `hf://datasets/owner/name`, maybe with :config."""
    return _HUB.fullmatch(str(path)) is not None


def dataset_rows(path: Path, query: Query, notes: ReadNotes) -> Rows:
    """Yield the rows of a saved data set.

    Its sound is written once to {path}.audio beside it, or to the user's cache where that folder
    cannot be written.

    Args:
        path: The folder that save_to_disk wrote.
        query: Which rows are wanted.
        notes: Splits and guesses are noted here.

    Raises:
        MissingExtraError: `datasets` is not installed.
        CorpusError: `datasets` cannot load the folder.
    """
    datasets = _datasets()
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # it raises KeyError, Arrow's own errors and more
        raise CorpusError(
            f"{path}: `datasets` cannot load it ({type(error).__name__}: {error})"
        ) from error
    cache = _sound_folder(path)
    yield from _rows(_parts(loaded, cache), str(path), [path, path.parent], query, notes)


def hub_rows(path: str | Path, query: Query, notes: ReadNotes) -> Rows:
    """Yield the rows of a data set on the hub, which is downloaded whole.

    This was never run against the hub, which our machines cannot reach.

    Args:
        path: What `is_hub_id` accepts.
        query: Which rows are wanted.
        notes: Splits and guesses are noted here.

    Raises:
        MissingExtraError: `datasets` is not installed.
        CorpusError: `datasets` cannot load the data set.
    """
    datasets = _datasets()
    found = _HUB.fullmatch(str(path))
    assert found, "only for what is_hub_id accepts"
    name, config = found.groups()
    try:
        loaded = datasets.load_dataset(name, config)
    except Exception as error:
        raise CorpusError(
            f"{path}: `datasets` cannot load it ({type(error).__name__}: {error})"
        ) from error
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "dualasr-audio"
    yield from _rows(_parts(loaded, cache), str(path), [cache], query, notes)


def _datasets():
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "datasets") from error
    return datasets


@dataclass(frozen=True)
class _Part:
    """A split of a data set.

    Attributes:
        split: Its name; "" where it has none.
        features: The type of each column.
        rows: Gives the rows, with only the columns that it is given.
        folder: Where the sound of the rows is written; it is another one for other contents.
        first: Number of the first row, which its id has; the rows of a split may be in several.
    """

    split: str
    features: Mapping[str, Any]
    rows: Callable[[list[str]], Iterable[dict]]
    folder: Path
    first: int = 0


def _parts(loaded, cache: Path) -> list[_Part]:
    """Return the splits of what `datasets` has loaded."""
    from datasets import Audio, Dataset

    own = str(getattr(loaded, "split", None) or "")
    parts = (
        {own if names_a_split(own) else "": loaded} if isinstance(loaded, Dataset) else dict(loaded)
    )

    def rows(part, names: list[str]) -> Iterable[dict]:
        for name in names:
            if isinstance(part.features[name], Audio):
                # the bytes alone, because `datasets` decodes them by torchcodec
                part = part.cast_column(name, Audio(decode=False))
        return part.select_columns(names)

    return [
        # the fingerprint is a hash of the contents: another data set at this path has another one
        _Part(split, part.features, partial(rows, part), cache / part._fingerprint)
        for split, part in parts.items()
    ]


def _rows(
    parts: Iterable[_Part], where: str, roots: list[Path], query: Query, notes: ReadNotes
) -> Rows:
    for part in parts:
        split, features = part.split, part.features
        if split:
            notes.splits.add(split)
        columns = _with_sound(query.columns, features)
        at, guessed = match_columns(columns, list(features), query.require_text, where)
        if guessed:
            notes.add(guessed)
        if "split" not in at and not query.takes_split(split):
            continue
        names = {field: list(features)[i] for field, i in at.items()}
        kind = _sound_kind(features[names["audio"]])
        if not kind:
            raise CorpusError(
                f"{where}: its column {names['audio']!r} holds {_shown(features[names['audio']])},"
                " which is no sound; wanted an Audio feature, paths of files, or arrays with their"
                " sampling_rate."
            )
        for i, row in enumerate(part.rows(list(dict.fromkeys(names.values())))):
            source = f"{where}:{split or 'row'}:{i}"
            sound = row[names["audio"]]
            fields = {
                field: _cell(row[name], features[name])
                for field, name in names.items()
                if field != "audio"
            }
            own = fields.get("split") or split
            path: str | None = str(sound) if kind == "path" and sound else None
            if kind != "path":
                named = ((sound or {}).get("path") or "") if kind != "bytes alone" else ""
                fields["id"] = fields.get("id") or ":".join(
                    filter(None, (split, str(part.first + i), os.path.basename(named)))
                )
                path = named
                made = _file_of(kind, sound, named) if query.takes_split(own) else None
                if isinstance(made, str):
                    yield Row(source, made, own)
                    continue
                if made:
                    path = str(_written(part.folder / f"{i}{made[0]}", made[1]))
            row_made = row_of_fields({**fields, "audio": path}, query, notes, roots, split)
            if row_made is not None:
                yield Row(source, row_made, own)


def _with_sound(columns: Columns, features: Mapping[str, Any]) -> Columns:
    """Return the columns, with the only one that holds sound where no name tells it."""
    sounds = [name for name, feature in features.items() if _sound_kind(feature) == "audio"]
    usual = [name for name in features if name.lower() in GUESSES["audio"].split()]
    if columns.audio is None and len(sounds) == 1 and not set(sounds) & set(usual[:1]):
        return replace(columns, audio=sounds[0])
    return columns


def _sound_kind(feature) -> str:
    """Return what a column holds: "audio", "array", "bytes alone" or "path"; "" if no sound."""
    from datasets import Audio, Value

    if isinstance(feature, Audio) or (isinstance(feature, dict) and "bytes" in feature):
        return "audio"
    if isinstance(feature, dict) and {"array", "sampling_rate"} <= set(feature):
        return "array"
    if isinstance(feature, Value) and feature.dtype in ("binary", "large_binary"):
        return "bytes alone"
    is_text = isinstance(feature, Value) and feature.dtype in ("string", "large_string")
    return "path" if is_text else ""


def _shown(feature) -> str:
    text = " ".join(str(feature).split())
    return text if len(text) <= 100 else text[:97] + "..."


def _file_of(kind: str, sound: Any, named: str) -> tuple[str, bytes] | str | None:
    """Return the suffix and the bytes of the file of a row's sound.

    It is None where the row only has a path, and a reason where its array cannot be used.
    """
    if not sound:
        return None
    if kind == "array":
        made = _wav(sound.get("array"), sound.get("sampling_rate"))
        return made if isinstance(made, str) else (".wav", made)
    data = sound if kind == "bytes alone" else sound["bytes"]
    return None if data is None else (Path(named).suffix.lower() or ".audio", bytes(data))


def _wav(array: Any, rate: Any) -> bytes | str:
    """Return an array of samples as a wav file, or the reason why it cannot be one."""
    import numpy as np
    import soundfile

    if not isinstance(rate, int) or not 0 < rate < 2**31:
        return f"its sampling_rate is {rate!r}, not samples a second"
    try:
        samples = np.asarray([] if array is None else array)
    except ValueError:  # channels of different lengths
        return "its array is no sound: its channels differ in length"
    if samples.ndim == 2 and samples.shape[0] < samples.shape[1]:
        samples = samples.T  # soundfile wants (samples, channels)
    if samples.dtype.kind not in "fiu" or samples.ndim not in (1, 2) or not samples.size:
        return f"its array is no sound: {samples.dtype} of shape {samples.shape}"
    if samples.dtype.kind != "f" and np.abs(samples).max() > 1:  # 16 bits, as in wav files
        samples = samples / 32768.0
    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, samples.astype(np.float32), rate, "FLOAT", format="WAV")
    except (soundfile.SoundFileError, ValueError) as error:
        return f"its array cannot be written as wav ({error})"
    return buffer.getvalue()


def find_parquet(path: Path) -> list[Path]:
    """Return the parquet files of a data set: the file, or those in a folder, in data/ or below."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".parquet" else []
    return next((f for at in ("", "data/", "*/") if (f := sorted(path.glob(at + "*.parquet")))), [])


def parquet_rows(path: Path, files: list[Path], query: Query, notes: ReadNotes) -> Rows:
    """Yield the rows of parquet files; their sound is written as that of a saved data set.

    The split of a file is in its name, as in train-00000-of-00002.parquet, or in its folder's.

    Args:
        path: The corpus.
        files: The parquet files in it.
        query: Which rows are wanted.
        notes: Splits and guesses are noted here.

    Raises:
        MissingExtraError: `datasets` is not installed.
        CorpusError: A file cannot be read.
    """
    datasets = _datasets()
    import pyarrow
    import pyarrow.parquet

    top = path if path.is_dir() else path.parent
    counts: Counter[str] = Counter()
    for file in files:
        try:
            opened = pyarrow.parquet.ParquetFile(file)
            features = datasets.Features.from_arrow_schema(opened.schema_arrow)
        except Exception as error:  # as above
            raise _unreadable(file, error) from error
        status = file.stat()
        mark = f"{file.name}-{status.st_size:x}-{status.st_mtime_ns:x}"
        split = split_in(file.relative_to(top).parts) or ""
        rows = partial(_parquet_rows, opened)
        part = _Part(split, features, rows, _sound_folder(path) / mark, counts[split])
        counts[split] += opened.metadata.num_rows
        try:
            yield from _rows([part], str(file), [file.parent, top], query, notes)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise _unreadable(file, error) from error


def _parquet_rows(opened, names: list[str]) -> Iterable[dict]:
    for batch in opened.iter_batches(batch_size=16, columns=names):
        yield from batch.to_pylist()


def _unreadable(file: Path, error: Exception) -> CorpusError:
    return CorpusError(f"{file}: cannot be read as parquet ({type(error).__name__}: {error})")


def _sound_folder(path: Path) -> Path:
    """Return where the sound of a data set is written: beside it, or in the user's cache."""
    if os.access(path.absolute().parent, os.W_OK):
        return path.with_name(path.name + ".audio")
    mark = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:12]
    return cache_folder() / "sounds" / f"{path.name}-{mark}"


def _cell(value, feature) -> str | None:
    """Return a value as a string, as a cell of a table; a class label by its name."""
    if value is not None and hasattr(feature, "int2str"):
        value = feature.int2str(value)
    return None if value is None else str(value).strip()


def _written(path: Path, data: bytes) -> Path:
    """Write a file if it is not there yet, whole or not at all, and return it. Raises RunError."""
    path = Path(os.path.abspath(path))  # a relative path would be looked for inside the corpus
    if path.is_file():
        return path
    with atomic_file(path, name=f"the data set's sound to {path.parent}") as part:
        part.write_bytes(data)
    return path
