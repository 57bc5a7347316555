"""The format of language packs on disk: a folder of safetensors, JSON, text and PNG files.

A pack is written whole or not at all, and verified before it loads.

    pack.json                    format version, checksum of the base, settings, languages,
                                 calibration, scores, SHA-256 of all files
    adapter_config.json,
    adapter_model.safetensors    LoRA in peft's format: PeftModel.from_pretrained(whisper, folder)
    decoder.safetensors          LayerNorm, decoder, CTC head, language head
    fingerprints.safetensors     fingerprints of its training data (fingerprints.py); optional
    statistics.safetensors       statistics of its languages (language_statistics.py); optional
    ngrams.safetensors           character n-grams of its text (ngrams.py); optional
    tokenizer.json               byte-level BPE
    characters.json              units of the CTC head
    README.md                    model card
    regression.md, .png          error rates of other languages before and after; optional
"""

import hashlib
import json
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_numpy
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from dualasr.atomic import atomic_file, atomic_folder
from dualasr.data.fingerprints import Fingerprints
from dualasr.errors import PackError
from dualasr.model.language_statistics import LanguageStatistics
from dualasr.model.las_decoder import LASOptions
from dualasr.model.ngrams import CharacterModel
from dualasr.model.pack import Pack, PackInfo
from dualasr.model.secondary import LORA_TARGETS, Secondary, SecondaryOptions
from dualasr.model.selector import Calibration, Logistic, SelectorOptions
from dualasr.model.tokenizer import PackTokenizer
from dualasr.model.whisper import Backbone

FORMAT_VERSION = 4
REGRESSION = "regression.md"
FINGERPRINTS = "fingerprints.safetensors"
STATISTICS = "statistics.safetensors"
NGRAMS = "ngrams.safetensors"
DATA_SUFFIXES = {".safetensors", ".json", ".md", ".png", ".txt"}


def is_pack(folder: Path) -> bool:
    """Return whether a folder holds a pack.json."""
    return (folder / "pack.json").is_file()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(record: dict) -> str:
    """Return the SHA-256 of pack.json's content without the seal itself."""
    content = {key: value for key, value in record.items() if key != "seal"}
    return hashlib.sha256(
        json.dumps(content, sort_keys=True, ensure_ascii=False).encode()
    ).hexdigest()


def _peft_name(name: str, fork: int) -> str:
    """Return the name that peft gives a LoRA tensor of a pack on a whole Whisper.

    A pack's name is `layers.0.self_attn.q_proj.lora_A.default.weight`.
    """
    if name.startswith("decoder."):
        return f"base_model.model.model.{name.replace('.default', '')}"
    _, layer, rest = name.split(".", 2)
    return (
        f"base_model.model.model.encoder.layers.{int(layer) + fork}.{rest.replace('.default', '')}"
    )


def _split_tensors(secondary: Secondary) -> tuple[dict, dict]:
    """Return the LoRA tensors of a pack, by peft's names, and its other tensors."""
    adapter, rest = {}, {}
    for name, parameter in secondary.own_tensors():
        tensor = parameter.detach().float().cpu().contiguous()
        if ".lora_" in name:
            adapter[_peft_name(name, secondary.options.fork)] = tensor
        else:
            rest[name] = tensor
    return adapter, rest


def _replacing(folder: Path) -> AbstractContextManager[Path]:
    """Give a folder to fill, which replaces a pack once it is complete. Raises RunError."""
    advice = "Free some space or choose another --out; what was saved before is untouched."
    return atomic_folder(
        folder, replace=True, name=f"the pack {folder}", advice=advice, errors=(SafetensorError,)
    )


def _write_record(folder: Path, record: dict) -> None:
    """Write pack.json with the SHA-256 of all files that are in the folder."""
    record = record | {"files": {path.name: _sha256(path) for path in sorted(folder.iterdir())}}
    (folder / "pack.json").write_text(
        json.dumps(record | {"seal": _seal(record)}, indent=1, ensure_ascii=False),
        encoding="utf-8",
    )


def save_pack(
    folder: Path, pack: Pack, backbone: Backbone, fingerprints: Fingerprints | None = None
) -> None:
    """Write a pack, whole or not at all.

    It is written beside `folder` and then renamed, so that an existing pack is replaced only once
    the new one is complete.

    Args:
        folder: The pack's folder.
        pack: The pack.
        backbone: Its base.
        fingerprints: Fingerprints of its training data; None if there are none.

    Raises:
        RunError: The disk is full or not writable. An existing pack is then unchanged.
    """
    info, secondary = pack.info, pack.secondary
    adapter, rest = _split_tensors(secondary)
    with _replacing(Path(folder)) as part:
        if adapter:
            config = _adapter_config(secondary.options, backbone)
            (part / "adapter_config.json").write_text(json.dumps(config, indent=1))
            save_file(adapter, part / "adapter_model.safetensors", metadata={"format": "pt"})
        save_file(rest, part / "decoder.safetensors", metadata={"format": "pt"})
        if fingerprints is not None:
            fingerprints.save(part / FINGERPRINTS)
        if pack.statistics is not None:
            save_numpy(vars(pack.statistics), part / STATISTICS)
        if pack.ngrams is not None:
            save_numpy(_ngram_tensors(pack.ngrams), part / NGRAMS)
        (part / "tokenizer.json").write_text(secondary.tokenizer.bpe.to_str(), encoding="utf-8")
        (part / "characters.json").write_text(
            json.dumps(secondary.tokenizer.characters, ensure_ascii=False), encoding="utf-8"
        )
        card = model_card(info, backbone, secondary)
        (part / "README.md").write_text(card, encoding="utf-8")
        base = {"name": backbone.name, "checksum": backbone.checksum}
        record = {
            "format_version": FORMAT_VERSION,
            "base": base,
            "secondary": secondary.settings(),
            **_info_record(info),
        }
        _write_record(part, record)


def _adapter_config(options: SecondaryOptions, backbone: Backbone) -> dict:
    """Return adapter_config.json, with which peft puts a pack's LoRA into a whole Whisper."""
    places = [
        rf"encoder\.layers\.({'|'.join(str(i) for i in range(options.fork, backbone.layers))})"
    ]
    places += [r"decoder\.layers\.\d+"] * (options.decoder == "whisper")
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": backbone.name,
        "task_type": None,
        "inference_mode": True,
        "r": options.rank,
        "lora_alpha": options.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": (
            rf".*({'|'.join(places)})\.((self|encoder)_attn\.)?({'|'.join(LORA_TARGETS)})"
        ),
    }


def attach_regression(folder: Path, table: Path, plot: Path) -> None:
    """Add the error rates of all languages before and after a pack to the saved pack.

    They replace earlier ones, and are sealed with the pack's other files.

    Args:
        folder: The pack's folder.
        table: A Markdown file with the rates.
        plot: A PNG file that shows them.

    Raises:
        PackError: The pack is damaged.
        RunError: It cannot be written. The pack is then unchanged.
    """
    folder, added = Path(folder), {REGRESSION: table, "regression.png": plot}
    record = read_pack(folder)
    if all(record["files"].get(name) == _sha256(path) for name, path in added.items()):
        return
    with _replacing(folder) as part:
        for name, path in ({name: folder / name for name in record["files"]} | added).items():
            shutil.copyfile(path, part / name)
        _write_record(part, record)


def model_card(info: PackInfo, backbone: Backbone, secondary: Secondary) -> str:
    """Return the pack's README.md.

    Args:
        info: The pack's record.
        backbone: Its base.
        secondary: Its trained parts.

    Returns:
        Markdown.
    """
    own = sum(p.numel() for _, p in secondary.own_tensors())
    names = ", ".join(f"{name} (`{code}`)" for code, name in info.languages.items())
    facts = "".join(
        f"| {key} | {value} |\n"
        for key, value in info.training.items()
        if not isinstance(value, dict)
    )
    scores = "".join(f"| {key} | {value} |\n" for key, value in info.scores.items())
    return (
        f"# {info.name}: a dualasr language pack\n\n{names} for the base `{backbone.name}`"
        f" (checksum `{backbone.checksum[:12]}`), {own:,} parameters, LoRA rank"
        f" {secondary.options.rank} from encoder layer {secondary.options.fork}.\n\n    dualasr"
        f" transcribe FILE --base {backbone.name} --pack THIS_FOLDER\n\n## Training\n\n| |"
        f" |\n|---|---|\n{facts}\n## Scores\n\n| | |\n|---|---|\n{scores}"
    )


def read_pack(folder: Path) -> dict:
    """Return pack.json of a pack, after verifying all files of its folder.

    Args:
        folder: The pack's folder.

    Raises:
        PackError: There is no pack, or it is damaged, unsafe or of another format.
    """
    folder = Path(folder)
    record = _read_record(folder)
    _check_names(folder, record["files"])
    if record.get("seal") != _seal(record):
        raise PackError(
            f"{folder}/pack.json was changed after it was written; the pack is damaged, fetch it"
            " again."
        )
    for name, expected in record["files"].items():
        path = folder / name
        if not path.is_file():
            raise PackError(f"{folder} lacks {name}; the pack is incomplete, fetch it again.")
        if _sha256(path) != expected:
            raise PackError(
                f"{folder}/{name} was changed after the pack was written (SHA-256 differs); fetch"
                " it again."
            )
    return record


def _read_record(folder: Path) -> dict:
    """Return pack.json, if it is a record of this format that lists files. Raises PackError."""
    if not folder.is_dir():
        raise PackError(f"There is no pack at {folder}; give the folder that holds its pack.json.")
    if not is_pack(folder):
        raise PackError(f"{folder} is no pack: it has no pack.json.")
    try:
        record = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise PackError(
            f"{folder}/pack.json cannot be read ({error}); the pack is damaged, fetch it again."
        ) from error
    version = record.get("format_version") if isinstance(record, dict) else None
    if version != FORMAT_VERSION:
        raise PackError(
            f"{folder} has pack format {version!r}; this dualasr reads format {FORMAT_VERSION}."
        )
    files = record.get("files")
    if (
        not isinstance(files, dict)
        or "decoder.safetensors" not in files
        or "tokenizer.json" not in files
    ):
        raise PackError(f"{folder}/pack.json lists no files; the pack is damaged, fetch it again.")
    return record


def _check_names(folder: Path, files: Iterable[str]) -> None:
    """Raise PackError for a file outside the folder, and for a file that may hold code."""
    for name in files:
        path = folder / name
        if Path(name).name != name or path.resolve().parent != folder.resolve():
            raise PackError(
                f"{folder}/pack.json names {name!r}, outside its folder; refusing to load it."
            )
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in DATA_SUFFIXES:
            raise PackError(
                f"{folder} holds {path.name}, which is neither safetensors, JSON nor text; refusing"
                " to load."
            )


def _logistic(record: dict) -> Logistic:
    return Logistic(tuple(record["weights"]), record["offset"])


def _info_record(info: PackInfo) -> dict:
    """Return what `pack_info` reads; format 4 calls the calibration of the second pass "duel"."""
    record = asdict(info)
    record["calibration"]["duel"] = record["calibration"].pop("second_pass")
    return record


def pack_info(record: dict) -> PackInfo:
    """Return the PackInfo in a record of `read_pack`."""
    c = record["calibration"]
    parts = {
        "head": _logistic(c["head"]),
        "tag": _logistic(c["tag"]),
        "text": _logistic(c["text"]) if "text" in c else Calibration().text,
        "second_pass": _logistic(c["duel"]),
    }
    keys = ("name", "languages", "target", "ctc_weight", "training", "scores")
    return PackInfo(
        **{key: record[key] for key in keys},
        calibration=Calibration(
            **parts, floor=c.get("floor", Calibration().floor), negatives=c["negatives"]
        ),
    )


def load_pack(folder: Path, backbone: Backbone) -> Pack:
    """Verify a pack and load it onto its base.

    Args:
        folder: The pack's folder.
        backbone: The base.

    Returns:
        The pack, ready to decode, on the device and in the number format of the base.

    Raises:
        PackError: The pack is missing, damaged, or was trained on another base.
    """
    folder = Path(folder)
    record = read_pack(folder)
    try:
        _check_base(folder, record["base"], backbone)
        settings = dict(record["secondary"])
        options = SecondaryOptions(**(settings | {"las": LASOptions(**settings["las"])}))
        info = pack_info(record)
        secondary = Secondary(backbone, _read_tokenizer(folder, info), options)
        tensors = load_file(folder / "decoder.safetensors")
        adapter = load_file(folder / "adapter_model.safetensors") if options.rank else {}
        statistics = _statistics_of(folder, record, (len(info.languages), 3 * backbone.width))
        ngrams = _ngrams_of(folder, record, 1 + len(secondary.tokenizer.characters))
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise PackError(
            f"{folder} cannot be loaded ({type(error).__name__}: {error}); the pack is damaged,"
            " fetch it again."
        ) from error
    _fill(secondary, tensors, adapter, folder)
    secondary.to(device=backbone.device, dtype=backbone.model.dtype).eval().requires_grad_(False)
    return Pack(info, secondary, statistics, ngrams, folder)


def _check_base(folder: Path, base: dict, backbone: Backbone) -> None:
    """Raise PackError for a pack that was trained on another base."""
    if base["checksum"] not in (backbone.checksum, backbone.float32_checksum):
        raise PackError(
            f"{folder} was trained on {base['name']} ({base['checksum'][:12]}), not on"
            f" {backbone.name} ({backbone.checksum[:12]}); load it with --base {base['name']} or"
            " train a pack for this base."
        )


def _read_tokenizer(folder: Path, info: PackInfo) -> PackTokenizer:
    """Return a pack's tokenizer. Raises ValueError or OSError for files that hold none."""
    characters = tuple(json.loads((folder / "characters.json").read_bytes()))
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    try:
        bpe = Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises no narrower one
        raise ValueError(f"tokenizer.json: {error}") from error
    return PackTokenizer(tuple(info.languages), bpe, characters)


def _statistics_of(folder: Path, record: dict, shape: tuple[int, int]) -> LanguageStatistics | None:
    """Return a pack's statistics, None if it has none. Raises ValueError for another shape."""
    path = folder / STATISTICS
    if path.name not in record["files"]:
        return None
    statistics = read_statistics(path)
    if statistics.means.shape != shape:
        raise ValueError(f"statistics of shape {statistics.means.shape}")
    return statistics


def _ngram_tensors(model: CharacterModel) -> dict[str, np.ndarray]:
    """Return a model's arrays by name and order, as they are stored."""
    parts = ("keys", "log_probs", "contexts", "weights")
    tensors = {
        f"{part}.{n}": values for part in parts for n, values in enumerate(getattr(model, part), 1)
    }
    return tensors | {"units": np.array([model.units])}


def _ngrams_of(folder: Path, record: dict, units: int) -> CharacterModel | None:
    """Return a pack's n-grams, None if it has none. Raises ValueError for other units."""
    if NGRAMS not in record["files"]:
        return None
    tensors = load_numpy(folder / NGRAMS)
    order = sum(name.startswith("keys.") for name in tensors)
    keys, log_probs, contexts, weights = (
        tuple(tensors[f"{part}.{n}"] for n in range(1, order + 1))
        for part in ("keys", "log_probs", "contexts", "weights")
    )
    if order < 1 or int(tensors["units"][0]) != units:
        raise ValueError(f"n-grams of {tensors['units'].tolist()} units; the CTC head has {units}")
    for values, of in ((log_probs, keys), (weights, contexts)):
        if any(a.shape != b.shape or not len(a) for a, b in zip(values, of, strict=True)):
            raise ValueError("n-grams whose arrays do not fit each other")
    return CharacterModel(units, keys, log_probs, contexts, weights)


def _fill(secondary: Secondary, tensors: dict, adapter: dict, folder: Path) -> None:
    """Copy a pack's stored tensors into its modules. Raises PackError for one that does not fit."""
    for name, parameter in secondary.own_tensors():
        stored = (
            adapter.pop(_peft_name(name, secondary.options.fork), None)
            if ".lora_" in name
            else tensors.pop(name, None)
        )
        if stored is None or stored.shape != parameter.shape:
            raise PackError(f"{folder} has no fitting tensor for {name}; the pack is damaged.")
        parameter.data.copy_(stored)


def read_statistics(path: Path) -> LanguageStatistics:
    """Return the statistics in a file. Raises KeyError or SafetensorError for another file."""
    tensors = load_numpy(path)
    return LanguageStatistics(tensors["means"], tensors["diagonal"], tensors["factors"])


def read_fingerprints(folder: Path | None) -> Fingerprints | None:
    """Return the fingerprints of a pack's training data.

    Args:
        folder: The pack's folder; None for a pack that was never saved.

    Returns:
        The fingerprints; None if the pack has none.

    Raises:
        PackError: The file is damaged.
    """
    path = None if folder is None else folder / FINGERPRINTS
    return Fingerprints.load(path) if path is not None and path.is_file() else None


# fields of older selector files, and their present names
_OLD_FIELDS = {
    "between": "discriminant_weight",
    "head_floor": "head_threshold",
    "asked": "max_candidates",
}


def read_selector(path: Path) -> SelectorOptions:
    """Read the selector file of a set of packs: a JSON object with fields of SelectorOptions.

    Args:
        path: The file. Its field "fitted" is not read.

    Returns:
        The settings; a field that the file lacks has its default.

    Raises:
        PackError: The file cannot be read, or it is no selector file.
    """
    try:
        record = dict(json.loads(Path(path).read_text(encoding="utf-8")))
        record.pop("fitted", None)
        record = {_OLD_FIELDS.get(name, name): value for name, value in record.items()}
        if "posterior" in record:
            record["posterior"] = _logistic(record["posterior"])
        floors = {name: float(floor) for name, floor in dict(record.get("floors", {})).items()}
        return SelectorOptions(
            **record | {"packs": tuple(record.get("packs", ())), "floors": floors}
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        fields = ", ".join(SelectorOptions.__dataclass_fields__)
        raise PackError(
            f"{path} is no selector file ({error}); wanted JSON with some of: {fields}."
        ) from error


def write_selector(path: Path, selector: SelectorOptions, fitted: dict) -> None:
    """Write a selector file, whole or not at all.

    Args:
        path: The file.
        selector: The settings.
        fitted: How they were fitted, for a person to read; any values that JSON can hold.

    Raises:
        RunError: The file cannot be written.
    """
    with atomic_file(path) as part:
        part.write_text(
            json.dumps(asdict(selector) | {"fitted": fitted}, indent=1, ensure_ascii=False),
            encoding="utf-8",
        )
