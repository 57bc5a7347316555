"""Read corpora of Hugging Face `datasets`: a folder that save_to_disk wrote, or a hub id."""

import os
import re
from pathlib import Path

from dualasr.atomic import atomic_file
from dualasr.data.tables import match_columns, row_of_fields
from dualasr.data.utterance import Query, ReadNotes, Row, Rows, names_a_split
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
    """Yield the rows of a saved data set; its sound is written once to {path}.audio beside it.

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
    yield from _rows(
        loaded, str(path), path.with_name(path.name + ".audio"), [path, path.parent], query, notes
    )


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
    yield from _rows(loaded, str(path), cache, [cache], query, notes)


def _datasets():
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "datasets") from error
    return datasets


def _rows(
    loaded, where: str, cache: Path, roots: list[Path], query: Query, notes: ReadNotes
) -> Rows:
    from datasets import Audio, Dataset

    own = str(getattr(loaded, "split", None) or "")
    parts = (
        {own if names_a_split(own) else "": loaded} if isinstance(loaded, Dataset) else dict(loaded)
    )
    for split, part in parts.items():
        if split:
            notes.splits.add(split)
        at, guessed = match_columns(query.columns, part.column_names, query.require_text, where)
        if guessed:
            notes.add(guessed)
        if "split" not in at and not query.takes_split(split):
            continue
        names = {field: part.column_names[i] for field, i in at.items()}
        # the fingerprint is a hash of the contents: another data set at this path has another one
        folder = cache / part._fingerprint
        is_sound = isinstance(part.features[names["audio"]], Audio)
        if is_sound:
            # the bytes alone, because `datasets` decodes them by torchcodec
            part = part.cast_column(names["audio"], Audio(decode=False))
        for i, row in enumerate(part.select_columns(list(dict.fromkeys(names.values())))):
            source = f"{where}:{split or 'row'}:{i}"
            sound = row[names["audio"]]
            fields = {
                field: _cell(row[name], part.features[name])
                for field, name in names.items()
                if field != "audio"
            }
            if is_sound:
                name = (sound or {}).get("path") or ""
                fields["id"] = fields.get("id") or ":".join(
                    filter(None, (split, str(i), os.path.basename(name)))
                )
                own = fields.get("split") or split
                if sound and sound["bytes"] is not None and query.takes_split(own):
                    sound = str(
                        _written(
                            folder / f"{i}{Path(name).suffix.lower() or '.audio'}", sound["bytes"]
                        )
                    )
                else:
                    sound = name
            if (
                made := row_of_fields(
                    {**fields, "audio": sound and str(sound)}, query, notes, roots, split
                )
            ) is not None:
                yield Row(source, made, fields.get("split") or split)


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
