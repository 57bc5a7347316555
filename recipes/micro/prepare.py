"""Step 1 of the built-in base: make log-mel shards of generated, augmented clips from sentences.

    python recipes/micro/prepare.py --text FOLDER --out runs/micro

FOLDER holds one file a language, named `*_<code>.txt` or `<code>.txt`, with one sentence a line. A
byte-level BPE is trained on them. Sentences are recombined (spans, joins, shuffled words), so that
the base must attend to the sound and cannot complete sentences that it remembers. Each shard is a
function of (seed, shard number): a stopped run goes on where it was. `record.json` keeps sources,
hashes and settings.
"""

import argparse
import hashlib
import json
import os
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dualasr.atomic import atomic_file
from dualasr.audio.augment import augment, coloured_noise, music
from dualasr.audio.load import SAMPLE_RATE
from dualasr.data.corpus import text_file
from dualasr.data.espeak import TRAIN_VARIANTS, Speaker, draw_voice

LETTERS = {
    "en": "a-z",
    "es": "a-zñáéíóúü",
    "de": "a-zäöüß",
    "tr": "a-zçğıöşüâîû",
    "bg": "а-я",
    "pt": "a-zàáâãçéêíóôõú",
    "it": "a-zàèéìíòóùú",
    "fr": "a-zàâæçèéêëîïôœùûüÿ",
    "uk": "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя'",
}
SHARES = {"en": 2.0}  # its spelling is farthest from its sound; every other language has one share
NO_SPEECH = "nospeech"
WINDOW_S = 15.0
CLIPS_A_SHARD = 1000


def read_sentences(folder: Path, language: str) -> tuple[list[str], dict]:
    """Read a language's sentences that have its own letters only, and a record of their file."""
    path = text_file(folder, language)
    raw = path.read_bytes()
    keep = re.compile(rf"^[{LETTERS[language]} ,.?!¿¡'-]+$")
    sentences = []
    for line in raw.decode().splitlines():
        line = re.sub(r"\s+", " ", re.sub('[„“”"«»;:()…]', " ", line.replace("’", "'"))).replace(
            " - ", " "
        )
        line = re.sub(r"[—–]", " ", line).strip(" -,'")
        line = re.sub(r"\s+([,.?!])", r"\1", re.sub(r"\s+", " ", line))
        if keep.match(line.lower().replace("\u0307", "")) and len(line.split()) >= 2:
            sentences.append(line)
    record = {
        "file": path.name,
        "sha256": hashlib.sha256(raw).hexdigest(),
        "sentences": len(sentences),
    }
    return sentences, record


def as_sentence(words: list[str]) -> str:
    """Join words to a written sentence: a capital, a full stop, no loose punctuation."""
    text = " ".join(words).strip(" ,.-'¿¡?!")
    return text[:1].upper() + text[1:] + "."


def recombine(sentences: list[str], rng: np.random.Generator) -> str:
    """Make a text to read: a span, a sentence, a join of spans, or shuffled words of sentences."""

    def pick() -> list[str]:
        return sentences[rng.integers(len(sentences))].split()

    def span(low: int, high: int) -> list[str]:
        words = pick()
        size = min(len(words), int(rng.integers(low, high + 1)))
        start = int(rng.integers(0, len(words) - size + 1))
        return [w.strip(".?!¿¡") or w for w in words[start : start + size]]

    kind = rng.random()
    if kind < 0.48:
        return as_sentence(span(1, 7))
    if kind < 0.68:
        words = pick()
        return " ".join(words) if len(words) <= 12 else as_sentence(words[:9])
    if kind < 0.80:
        return as_sentence(span(1, 4) + span(1, 4))
    if kind < 0.96:
        return as_sentence([span(1, 1)[0].strip(",") for _ in range(int(rng.integers(1, 6)))])
    return " ".join(" ".join(pick()) for _ in range(int(rng.integers(2, 4))))


def make_clip(
    sentences: dict[str, list[str]], rng: np.random.Generator, speaker: Speaker
) -> tuple[np.ndarray, dict]:
    """Make one augmented clip, (samples,), and its label.

    The label has text, language, start and end of speech, and phones; times are in seconds.
    """
    if rng.random() < 0.05:
        count = int(rng.uniform(0.3, 6.0) * SAMPLE_RATE)
        kind = rng.integers(3)
        samples = [np.zeros, lambda n: coloured_noise(n, rng), lambda n: music(n, rng)][kind](count)
        samples = samples.astype(np.float32) * 10 ** (rng.uniform(-60, -10) / 20)
        return samples, {"text": "", "lang": NO_SPEECH, "start": 0.0, "end": 0.0, "phones": []}
    shares = np.array([SHARES.get(code, 1.0) for code in sentences])
    language = str(rng.choice(list(sentences), p=shares / shares.sum()))
    while True:
        text = recombine(sentences[language], rng)
        utterance = speaker.utter(text, language, draw_voice(rng, "train"))
        speech = utterance.samples
        loud = np.flatnonzero(np.abs(speech) > 0.005)
        if len(loud) < 0.25 * SAMPLE_RATE:
            continue
        speech = speech[loud[0] : loud[-1] + 1]
        before, after = (int(rng.exponential(0.12) * SAMPLE_RATE) for _ in range(2))
        padded = np.concatenate([np.zeros(before, np.float32), speech, np.zeros(after, np.float32)])
        samples = augment(padded, rng)
        if len(samples) < WINDOW_S * SAMPLE_RATE - 800:
            break
    stretch = len(samples) / len(padded) / SAMPLE_RATE
    label = {
        "text": text,
        "lang": language,
        "start": before * stretch,
        "end": (before + len(speech)) * stretch,
    }
    shift = before - loud[0]
    label["phones"] = [
        [p, round((s * SAMPLE_RATE + shift) * stretch, 3)] for p, s in utterance.phones
    ]
    return samples, label


def make_shard(job: tuple[int, int, Path, dict[str, list[str]]]) -> int:
    """Write shard-N.npy (frames, 80) float16 and shard-N.jsonl, each whole or not at all."""
    import torch
    from transformers import WhisperFeatureExtractor

    torch.set_num_threads(1)
    seed, number, out, sentences = job
    index_path, mel_path = out / f"shard-{number:04d}.jsonl", out / f"shard-{number:04d}.npy"
    if index_path.exists():
        return number
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=int(WINDOW_S))
    rng = np.random.default_rng([seed, number])
    mels, rows, offset = [], [], 0
    with Speaker() as speaker:
        for _ in range(CLIPS_A_SHARD):
            samples, label = make_clip(sentences, rng, speaker)
            features = extractor(
                samples, sampling_rate=SAMPLE_RATE, padding="do_not_pad", return_tensors="np"
            )
            mel = features.input_features[0].T.astype(np.float16)
            mels.append(mel)
            rows.append(label | {"offset": offset, "frames": len(mel)})
            offset += len(mel)
    with atomic_file(mel_path) as part:
        np.save(part, np.concatenate(mels))
    with atomic_file(index_path) as part:
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return number


def build_tokenizer(sentences: dict[str, list[str]], size: int, out: Path) -> None:
    """Train a byte-level BPE of `size` units on equal shares of every language.

    Whisper's special tokens follow in its order.
    """
    from tokenizers import ByteLevelBPETokenizer
    from transformers import WhisperTokenizer

    share = min(sum(map(len, lines)) for lines in sentences.values())
    texts = []
    for lines in sentences.values():
        drawn = 0
        for line in lines:
            if drawn > share:
                break
            texts.append(line)
            drawn += len(line)
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=size, min_frequency=10, show_progress=False)
    state = json.loads(bpe.to_str())["model"]
    tokenizer = WhisperTokenizer(
        vocab=state["vocab"], merges=[tuple(merge) for merge in state["merges"]]
    )
    specials = [
        "<|startoftranscript|>",
        *(f"<|{code}|>" for code in sentences),
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
    ]
    stamps = [f"<|{i * 0.02:.2f}|>" for i in range(int(WINDOW_S * 50) + 1)]
    tokenizer.add_tokens(specials, special_tokens=True)
    tokenizer.add_tokens(stamps)
    tokenizer.save_pretrained(out)
    (out / "vocab.json").write_text(json.dumps(state["vocab"], ensure_ascii=False))
    (out / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(" ".join(m) + "\n" for m in state["merges"])
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--text", type=Path, required=True, help="folder of <code>.txt or *_<code>.txt files"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--languages", nargs="+", default=["en", "es", "de", "tr", "bg"])
    parser.add_argument("--clips", type=int, default=80_000)
    parser.add_argument("--vocabulary", type=int, default=768)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()

    shards = args.out / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    sentences, sources = {}, {}
    for language in args.languages:
        sentences[language], sources[language] = read_sentences(args.text, language)
    record = {
        "languages": args.languages,
        "text": sources,
        "clips": args.clips,
        "vocabulary": args.vocabulary,
        "seed": args.seed,
        "window_s": WINDOW_S,
        "synthesiser": "espeak-ng (espeakng-loader 0.2.4)",
        "voices": list(TRAIN_VARIANTS),
        "shares": SHARES,
    }
    record_path = args.out / "record.json"
    if record_path.exists() and json.loads(record_path.read_text()) != record:
        raise SystemExit(
            f"{args.out} holds another preparation; choose another --out or delete it."
        )
    record_path.write_text(json.dumps(record, indent=1, ensure_ascii=False))
    if not (args.out / "tokenizer").exists():
        build_tokenizer(sentences, args.vocabulary, args.out / "tokenizer")
    jobs = [(args.seed, n, shards, sentences) for n in range(-(-args.clips // CLIPS_A_SHARD))]
    with ProcessPoolExecutor(args.workers) as pool:
        for _ in tqdm(pool.map(make_shard, jobs), total=len(jobs), unit="shard"):
            pass


if __name__ == "__main__":
    main()
