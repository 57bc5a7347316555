"""Measure how far word times lie from espeak-ng's own word events, in seconds.

    python recipes/micro/word_times.py --pack quickstart/packs/ky --pack quickstart/packs/ga

Test voices read test sentences; nothing was tuned on them. Each pipeline transcribes its own
languages. Words of the transcript are matched to those that were read, and the medians are over
matched words. The end of a word that was read is where the next word or pause begins.
"""

import argparse
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np

from dualasr.data.espeak import Speaker, Utterance, draw_voice
from dualasr.data.synthetic import sentences
from dualasr.evaluation.markdown import markdown_table
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.model.selector import PRIMARY
from dualasr.packs.load import load_model
from dualasr.text import normalise
from dualasr.transcription.alignment import split_words, words_of
from dualasr.transcription.transcript import Word


def spoken_words(text: str, said: Utterance) -> list[tuple[str, float, float]]:
    """Return the words that were read, with start and end in seconds.

    Words without an event of their own are left out.
    """
    found = []
    for first, last in split_words(text, "word"):
        starts = [second for place, second in said.words if first <= place < last]
        if starts:
            found.append((text[first:last], min(starts)))
    pauses = [second for phone, second in said.phones if not phone]
    nexts = [*(start for _, start in found[1:]), len(said.samples) / 16_000]
    ends = [
        min([end, *(p for p in pauses if start < p)])
        for (_, start), end in zip(found, nexts, strict=True)
    ]
    return [(word, start, end) for (word, start), end in zip(found, ends, strict=True)]


def errors(
    transcript: Sequence[Word], read: Sequence[tuple[str, float, float]]
) -> list[tuple[float, float]]:
    """Return the errors of start and end, in seconds, of the words that are in both."""
    mine, theirs = (
        [normalise(word, "marks").strip() for word in words]
        for words in ((w.word for w in transcript), (w for w, _, _ in read))
    )
    pairs = []
    for block in SequenceMatcher(None, mine, theirs, autojunk=False).get_matching_blocks():
        for k in range(block.size):
            word, (_, start, end) = transcript[block.a + k], read[block.b + k]
            pairs.append((word.start - start, word.end - end))
    return pairs


def measure(
    model: DualWhisper, speaker: Speaker, language: str, route: str, clips: int, split: str
) -> np.ndarray:
    rng, found = np.random.default_rng(1), []
    for text in sentences(language, split)[:clips]:
        said = speaker.utter(
            text, language, draw_voice(rng, "test" if split == "test" else "train")
        )
        if not 0 < len(said.samples) <= model.backbone.window_samples:
            continue
        audio = model.encode_audio([said.samples])
        results = model.transcribe_encoded(
            audio, route=route, language=language, options=DecodeOptions(beam=5)
        )
        found += errors(words_of(model, audio, results)[0], spoken_words(text, said))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="micro")
    parser.add_argument("--pack", type=Path, action="append", default=[])
    parser.add_argument(
        "--clips", type=int, default=40, help="sentences of each language (%(default)s)"
    )
    args = parser.parse_args()

    model = load_model(args.base, args.pack)
    routes = {
        code: PRIMARY for code in ("en", "es", "de", "tr", "bg") if code in model.backbone.languages
    }
    routes |= {code: pack.name for pack in model.packs.values() for code in pack.info.languages}
    rows = []
    with Speaker() as speaker:
        for language, route in routes.items():
            pairs = measure(model, speaker, language, route, args.clips, "test")
            rows.append(
                (
                    language,
                    route,
                    str(len(pairs)),
                    *(
                        f"{1000 * v:.0f}"
                        for side in pairs.T
                        for v in (np.median(np.abs(side)), np.median(side))
                    ),
                )
            )
    head = (
        "language",
        "route",
        "words",
        "start, median absolute error, ms",
        "start, median error",
        "end, absolute",
        "end",
    )
    print("\n".join(markdown_table(head, rows)))


if __name__ == "__main__":
    main()
