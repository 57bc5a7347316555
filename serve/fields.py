"""The fields that clients of OpenAI, faster-whisper and whisper.cpp send, read as they spell them.

Lists come as `name[]`, as `name`, with commas, or as JSON. What this server cannot do is refused
with a sentence: no field is dropped without a word.
"""

import json
import re
from collections.abc import Collection, Sequence
from importlib.util import find_spec

from starlette.datastructures import FormData

from dualasr.audio.vad import VadOptions

from .openai_errors import ApiError

# Names of models that clients of other servers send whatever is there, with or without an owner:
# gpt-4o-transcribe, whisper-1, openai/whisper-large-v3-turbo, Systran/faster-whisper-small, tiny.en
_OTHERS = re.compile(
    r"(?:[\w.-]+/)?(?:gpt-(?:[\w.]+-)*transcribe|(?:faster-)?(?:distil-)?whisper)(?:-[\w.-]+)?"
    r"|(?:tiny|base|small|medium|large)(?:\.en|-v[123])?(?:-turbo)?|turbo"
)
_IMPOSSIBLE = {
    "known_speaker_names": "speakers are not told apart here",
    "known_speaker_references": "speakers are not told apart here",
}
_GRANULARITIES = ("segment", "word")


def is_name_of_others(model: str) -> bool:
    """Whether a model's name is one that clients send to other servers."""
    return re.fullmatch(_OTHERS, model) is not None


def check_names(form: FormData, known: Collection[str]) -> None:
    """Check that no field would be dropped.

    Args:
        form: The form of a request.
        known: Names of the fields that the endpoint reads, without brackets.

    Raises:
        ApiError: A field is unknown.
    """
    for name in form:
        plain = name.partition("[")[0]
        if plain not in known:
            reason = _IMPOSSIBLE.get(plain, f"the fields are {', '.join(sorted(known))}")
            shown = name[:100]
            raise _invalid(shown, f"The field {shown!r} is not known: {reason}.")


def list_of(form: FormData, name: str) -> list[str]:
    """Return the values of a list, with or without brackets, commas or JSON; () if it is missing.

    Args:
        form: The form of a request.
        name: Name of the field without brackets.
    """
    texts = [text for key in (f"{name}[]", name) for text in form.getlist(key)]
    return [value for text in texts if isinstance(text, str) for value in _split(text)]


def _split(text: str) -> list[str]:
    if text.strip().startswith("["):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, list) and all(isinstance(value, str) for value in values):
            return [value.strip() for value in values if value.strip()]
    return [value.strip() for value in text.split(",") if value.strip()]


def granularities(form: FormData, response_format: str) -> frozenset[str]:
    """Return the requested timestamp_granularities; none but in verbose_json, which has them.

    Raises:
        ApiError: A value is neither "segment" nor "word".
    """
    if response_format != "verbose_json":
        return frozenset()
    wanted = list_of(form, "timestamp_granularities")
    for value in wanted:
        if value not in _GRANULARITIES:
            raise _invalid(
                "timestamp_granularities[]",
                f"timestamp_granularities[] is {value!r}; it must be segment, word or both.",
            )
    return frozenset(wanted)


def refuse_include(form: FormData) -> None:
    """Refuse include[], as no token's log-probability is kept.

    Raises:
        ApiError: The request has include[].
    """
    if wanted := list_of(form, "include"):
        raise _invalid(
            "include[]",
            f"include[] is {wanted[0]!r}, which is not to be had here; verbose_json has"
            " avg_logprob for each segment.",
        )


def hints(form: FormData) -> str:
    """Return hotwords and keywords[] as one text for the prompt; "" for none."""
    hotwords = [text.strip() for text in form.getlist("hotwords") if isinstance(text, str)]
    return " ".join(filter(None, [*hotwords, ", ".join(list_of(form, "keywords"))]))


def vad_of(form: FormData, vad_filter: bool) -> VadOptions | None:
    """Return the settings of voice activity detection; None for none.

    Args:
        form: The form of a request, whose chunking_strategy is read: "auto", or an object of type
            server_vad, as JSON or as fields such as `chunking_strategy[threshold]`.
        vad_filter: Whether the request asks for it by this field.

    Raises:
        ApiError: A setting is wrong, or the extra vad is not installed.
    """
    strategy = _strategy(form)
    if strategy == "auto" and not vad_filter:
        return None  # windows end in pauses anyway
    if not all(map(find_spec, ("silero_vad", "onnxruntime"))):
        raise _invalid(
            "vad_filter" if vad_filter else "chunking_strategy",
            "This server has no voice activity detection; leave out vad_filter, and set"
            " chunking_strategy to auto. Whoever runs it can install dualasr[vad].",
        )
    settings = strategy if isinstance(strategy, dict) else {}
    names = {
        "threshold": "threshold",
        "prefix_padding_ms": "speech_pad_ms",
        "silence_duration_ms": "min_silence_duration_ms",
    }
    try:
        given = {own: settings[name] for name, own in names.items() if name in settings}
        options = {
            own: float(value) if own == "threshold" else int(value) for own, value in given.items()
        }
        return VadOptions(**options)
    except (TypeError, ValueError, OverflowError) as error:
        raise _invalid("chunking_strategy", f"chunking_strategy: {error}.") from None


def _strategy(form: FormData) -> str | dict:
    """Return chunking_strategy: "auto", which it is if it is missing, or its settings."""
    parts = {
        key.removeprefix("chunking_strategy[").removesuffix("]"): value
        for key, value in form.items()
        if key.startswith("chunking_strategy[")
    }
    text = form.get("chunking_strategy", "")
    found: object = parts
    if not parts:
        if text in ("", "auto"):
            return "auto"
        try:
            found = json.loads(text) if isinstance(text, str) else None
        except (ValueError, RecursionError):
            found = {"type": text}
    if not isinstance(found, dict) or found.get("type") not in ("auto", "server_vad"):
        raise _invalid(
            "chunking_strategy",
            'chunking_strategy must be auto, or an object such as {"type": "server_vad",'
            ' "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500}.',
        )
    known = {"type", "threshold", "prefix_padding_ms", "silence_duration_ms"}
    if unknown := set(found) - known:
        raise _invalid(
            "chunking_strategy",
            f"chunking_strategy has an unknown setting: {sorted(map(str, unknown))[0]!r}.",
        )
    return found if found["type"] == "server_vad" else "auto"


def named_languages(names: Sequence[str]) -> list[str]:
    """Return the names of languages without empty ones; none if one of them is "auto"."""
    kept = [name.strip() for name in names if name.strip()]
    return [] if any(name.lower() == "auto" for name in kept) else kept


def _invalid(param: str, message: str) -> ApiError:
    return ApiError(400, message, code="invalid_value", param=param)
