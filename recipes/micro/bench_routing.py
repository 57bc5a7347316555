"""What routing costs on clips in the base's own languages, side by side in one run; ratios are printed.

    python recipes/micro/bench_routing.py --corpus quickstart/corpus --pack quickstart/packs/ky --pack quickstart/packs/ga

Ours is language-agnostic transcription with the packs loaded. The first reference encodes once with plain transformers,
asks the language and decodes on the same features; the second is plain `generate`, which encodes twice.
"""

import argparse
import statistics
import time
from pathlib import Path

from transformers.modeling_outputs import BaseModelOutput

from dualasr.audio import load_audio
from dualasr.corpus import load_corpus
from dualasr.model import load_model


def one_encode(backbone, sound):
    """Plain transformers, as frugal as it gets."""
    model = backbone.model
    encoded = BaseModelOutput(model.get_encoder()(backbone.features([sound])).last_hidden_state)
    tag = model.detect_language(encoder_outputs=encoded)
    return model.generate(encoder_outputs=encoded, language=backbone.tokenizer.convert_ids_to_tokens(tag), task="transcribe")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="micro")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--pack", type=Path, action="append", default=[])
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    model = load_model(args.base, args.pack)
    backbone = model.backbone
    utterances = [u for u in load_corpus(args.corpus, "test").utterances if u.language in backbone.languages]
    step = max(1, len(utterances) // args.clips)
    sounds = [load_audio(u.sound) for u in utterances[::step][: args.clips]]
    ways = {
        "ours, agnostic": lambda sound: model.transcribe_windows([sound]),
        "one-encode transformers": lambda sound: one_encode(backbone, sound),
        "plain generate": lambda sound: backbone.model.generate(backbone.features([sound])),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(args.rounds + 1):  # the first round warms up
        for sound in sounds:
            for name, way in ways.items():
                began = time.perf_counter()
                way(sound)
                if number:
                    times[name].append(time.perf_counter() - began)
    ours = times["ours, agnostic"]
    asked = sum(bid.tag is not None for sound in sounds for bid in model.bids(model.listen([sound]))[0][0])
    print(f"{'milliseconds a clip':26} {'median':>8} {'mean':>8}    ours takes, by median and mean")
    for name, values in times.items():
        median, mean = statistics.median(values), statistics.fmean(values)
        ratios = f"{statistics.median(ours) / median:.2f} x, {statistics.fmean(ours) / mean:.2f} x"
        print(f"{name:26} {1000 * median:8.1f} {1000 * mean:8.1f}    {ratios}")
    print(f"{len(sounds)} clips, {len(model.packs)} packs; a pack ran its upper layers for {asked} of them")


if __name__ == "__main__":
    main()
