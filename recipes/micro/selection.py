r"""Measure routing with 1, 3 and 10 packs at once, and with sound that no pipeline knows.

    python recipes/micro/selection.py --corpus data/generated --text TEXTS \
        --pack packs/ky --pack packs/ga --pack packs/or --pack packs/om \
        --more ca cy et hu lv ta --out runs/selection

Clips are pooled evenly from the test split of the base's languages and of the packs'. Each set is
measured as its packs are, and after `dualasr calibrate`. That is given the packs' dev, train clips
of the base's languages, and foreign speech, music and noise. Other clips are measured, and other
foreign languages. For each language that --more names a small pack is trained on sentences of TEXTS
(*_<code>.txt, read by espeak-ng) and kept in OUT/packs; it is measured on other sentences.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
from scipy.stats import binomtest
from tqdm import tqdm

from dualasr.atomic import atomic_file, atomic_folder
from dualasr.audio.augment import coloured_noise, music
from dualasr.audio.load import SAMPLE_RATE, Sound, load_audio
from dualasr.data.corpus import load_corpus, text_file
from dualasr.data.espeak import Speaker, draw_voice
from dualasr.data.utterance import Utterance
from dualasr.evaluation.markdown import markdown_table
from dualasr.languages import language_of
from dualasr.metrics import character_errors, comparable
from dualasr.model.dual_whisper import DualWhisper
from dualasr.model.selector import PRIMARY, SelectorOptions
from dualasr.packs.load import load_model
from dualasr.training.add_language import add_language
from dualasr.training.calibrate_set import calibrate_set, pipeline_of, score_clips
from dualasr.training.options import AddLanguageOptions, TrainingOptions
from dualasr.training.set_calibration import ScoredClip, SetOptions, decide, measure

FOREIGN = {
    "dev": ("it", "pl", "sv", "el", "ro", "cs", "id", "hi"),
    "test": ("fr", "nl", "fi", "sl", "vi", "ka", "uk", "pt"),
}


def speak(
    folder: Path, text: Path, code: str, count: int, role: str, seed: int, skip: int = 0
) -> None:
    """Write `count` sentences of a language, after `skip` others, as FOLDER/manifest.jsonl.

    The folder appears whole or not at all.
    """
    if folder.exists():
        return
    rng = np.random.default_rng([seed, *code.encode()])
    lines = text_file(text, code).read_text(encoding="utf-8").splitlines()
    chosen = [lines[i] for i in rng.permutation(len(lines))[skip : skip + count]]
    with atomic_folder(folder) as part, Speaker() as speaker:
        rows = []
        for i, line in enumerate(chosen):
            samples = speaker.speak(line, code, draw_voice(rng, role))
            if len(samples) >= SAMPLE_RATE // 4:
                soundfile.write(part / f"{i:04d}.flac", samples, SAMPLE_RATE)
                split = "dev" if role == "train" and i % 8 == 0 else role
                rows.append({"audio": f"{i:04d}.flac", "text": line, "lang": code, "split": split})
        (part / "manifest.jsonl").write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        )


def make_sounds(folder: Path, kind, count: int, seed: int) -> None:
    """Write `count` clips of 2 to 8 s of music or noise, at -40 to -10 dB."""
    if folder.exists():
        return
    rng = np.random.default_rng(seed)
    with atomic_folder(folder) as part:
        for i in range(count):
            samples = kind(int(rng.uniform(2, 8) * SAMPLE_RATE), rng)
            scale = 10 ** (rng.uniform(-40, -10) / 20) / max(float(np.abs(samples).max()), 1e-9)
            soundfile.write(part / f"{i:04d}.flac", samples * scale, SAMPLE_RATE)


def unknown_sounds(out: Path, text: Path, split: str, count: int) -> dict[str, list[Sound]]:
    """Make sound of each kind that no pipeline knows, `count` clips a language and kind."""
    seed, found = {"dev": 11, "test": 12}[split], {}
    for code in FOREIGN[split]:
        speak(out / split / code, text, code, count, "test" if split == "test" else "train", seed)
    for name, kind in (("music", music), ("noise", coloured_noise)):
        make_sounds(out / split / name, kind, 4 * count, seed)
    found["foreign speech"] = [
        Sound(path)
        for code in FOREIGN[split]
        for path in sorted((out / split / code).glob("*.flac"))
    ]
    return found | {
        name: [Sound(path) for path in sorted((out / split / name).glob("*.flac"))]
        for name in ("music", "noise")
    }


def train_small(args, code: str, negatives: Sequence[Path]) -> Path:
    """Train a pack on some 280 clips for 120 steps.

    Beside its corpus there is one of other sentences, to measure on.
    """
    pack = args.out / "packs" / code
    speak(args.out / "corpora" / code, args.text, code, 320, "train", 13)
    speak(args.out / "test" / code, args.text, code, 80, "test", 13, skip=320)
    if not pack.exists():
        add_language(
            AddLanguageOptions(
                base=args.base,
                generated_negatives=False,
                corpora=(args.out / "corpora" / code,),
                languages={code: language_of(code).name},
                out=pack,
                negatives=tuple(negatives),
                training=TrainingOptions(steps=120, variants=1),
            ),
            resume=pack.with_name(f"{code}.run").exists(),
        )
    return pack


def folder_of(corpus: Path, code: str) -> Path:
    """Return where a FLEURS-shaped corpus has a language."""
    return corpus / "data" / language_of(code).config


def pooled(corpora: Mapping[str, Path], split: str, count: int) -> list[Utterance]:
    """Choose `count` clips, evenly from each language's corpus and spread over it."""
    found = []
    for i, folder in enumerate(corpora.values()):
        mine = [u for u in load_corpus(folder, split).utterances if (u.duration or 0.0) <= 15.0]
        share = count // len(corpora) + (i < count % len(corpora))
        order = np.random.default_rng(14).permutation(len(mine))[:share]
        found += [mine[i] for i in sorted(order)]
    return found


def gap(
    model: DualWhisper,
    clips: Sequence[Utterance],
    scored_clips: Sequence[ScoredClip],
    routes: Sequence[str],
) -> float:
    """Return what agnostic use adds to CER, in points: the mean over the packs' languages."""
    added = []
    for code in sorted(
        {
            clip.language
            for clip, scored in zip(clips, scored_clips, strict=True)
            if scored.pipeline != PRIMARY
        }
    ):
        refs, aware, agnostic = [], [], []
        for clip, scored, route in zip(clips, scored_clips, routes, strict=True):
            if clip.language != code:
                continue
            said = {PRIMARY: scored.first.text, scored.runner_up: scored.second.text}
            for name in {scored.pipeline, route} - set(said):
                said[name] = model.transcribe_windows([load_audio(clip.sound)], route=name)[0].text
            refs.append(clip.text)
            aware.append(said[scored.pipeline])
            agnostic.append(said[route])
        rates = [
            character_errors(*(comparable(texts, code, "marks")[0] for texts in (refs, hyps))).rate
            for hyps in (aware, agnostic)
        ]
        added.append(100 * (rates[1] - rates[0]))
    return float(np.mean(added))


def measured(
    model: DualWhisper,
    clips: Sequence[Utterance],
    scored_clips: Sequence[ScoredClip],
    unknown: dict[str, list[ScoredClip]],
    selector: SelectorOptions,
) -> dict:
    routes = [decide(scored, selector)[0] for scored in scored_clips]
    right = sum(
        route == scored.pipeline for route, scored in zip(routes, scored_clips, strict=True)
    )
    found, interval = (
        measure(scored_clips, [], selector, (PRIMARY, *model.packs)),
        binomtest(right, len(scored_clips)).proportion_ci(),
    )
    false_accept_rate = {
        kind: measure([], scored, selector, ())["false_accept_rate"]
        for kind, scored in unknown.items()
    }
    return {
        "clips": len(scored_clips),
        "accuracy": found["accuracy"],
        "interval": [interval.low, interval.high],
        "ece": found["calibration"]["ece"],
        "decoded_twice": found["decoded_twice"],
        "gap": gap(model, clips, scored_clips, routes),
        "false_accept_rate": false_accept_rate,
        "confusion": found["confusion"],
    }


def stress(args, packs: Sequence[Path]) -> dict:
    """Measure a set of packs as they are, and calibrated together."""
    model, options = load_model(args.base, packs), SetOptions()
    old = {code: folder_of(args.corpus, code) for code in model.backbone.languages}
    known = [code for pack in model.packs.values() for code in pack.info.languages]
    learnt = {code: folder_of(args.corpus, code) for code in known if code not in args.more}
    more = [code for code in known if code in args.more]
    dev = pooled(
        learnt | {code: args.out / "corpora" / code for code in more}, "dev", 40 * len(known)
    )
    dev += pooled(old, "train", 300)
    foreign = [
        sound
        for sounds in unknown_sounds(args.out / "unknown", args.text, "dev", 20).values()
        for sound in sounds
    ]
    fitted = calibrate_set(model, dev, foreign, options)
    clips = pooled(
        old | learnt | {code: args.out / "test" / code for code in more}, "test", args.clips
    )
    scored_clips, _ = score_clips(
        model, [(u.sound, u.language, pipeline_of(model, u.language)) for u in clips], options
    )
    unknown = {
        kind: score_clips(model, [(sound, "und", None) for sound in sounds], options)[0]
        for kind, sounds in unknown_sounds(args.out / "unknown", args.text, "test", 20).items()
    }
    sides = {"as they come": model.selector, "calibrated": fitted.selector}
    return {
        side: measured(model, clips, scored_clips, unknown, selector)
        for side, selector in sides.items()
    }


def to_markdown(found: dict[str, dict]) -> str:
    rows, kinds = [], ("foreign speech", "music", "noise")
    for count, sides in found.items():
        for side, m in sides.items():
            low, high = (100 * end for end in m["interval"])
            accepted = (f"{100 * m['false_accept_rate'][kind]:.1f}" for kind in kinds)
            rows.append(
                (
                    count,
                    side,
                    f"{100 * m['accuracy']:.2f} [{low:.1f}, {high:.1f}]",
                    f"{100 * m['ece']:.2f}",
                    f"{100 * m['decoded_twice']:.1f}",
                    f"{m['gap']:+.2f}",
                    *accepted,
                )
            )
    head = (
        "packs",
        "selector",
        "routed right, %",
        "calibration error, %",
        "decoded twice, %",
        "nothing known adds, CER points",
        *(f"{kind} accepted, %" for kind in kinds),
    )
    return "\n".join(markdown_table(head, rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="micro")
    parser.add_argument(
        "--corpus",
        type=Path,
        required=True,
        help="FLEURS-shaped, with the base's languages and the packs'",
    )
    parser.add_argument(
        "--text", type=Path, required=True, help="sentences of languages that nobody here knows"
    )
    parser.add_argument("--pack", type=Path, action="append", required=True)
    parser.add_argument(
        "--more", nargs="*", default=[], metavar="CODE", help="languages of further packs"
    )
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[1, 3, 10], help="packs at once (%(default)s)"
    )
    parser.add_argument("--clips", type=int, default=1000, help="pooled test clips (%(default)s)")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model = load_model(args.base, args.pack)
    negatives = [folder_of(args.corpus, code) for code in model.backbone.languages]
    packs = [
        *args.pack,
        *(train_small(args, code, negatives) for code in tqdm(args.more, unit="pack")),
    ]
    found = {}
    for count in args.counts:
        path = args.out / f"{count}.json"
        if not path.exists():
            with atomic_file(path) as part:
                part.write_text(json.dumps(stress(args, packs[:count]), indent=1))
        found[str(count)] = json.loads(path.read_text())
        print(to_markdown(found), flush=True)
    with atomic_file(args.out / "selection.md") as part:
        part.write_text(to_markdown(found) + "\n")


if __name__ == "__main__":
    main()
