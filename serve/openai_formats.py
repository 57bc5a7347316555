"""The response formats of OpenAI's transcription endpoint, whole and as a stream of events."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastapi.responses import JSONResponse, PlainTextResponse, Response

from dualasr.text import scoring_unit
from dualasr.transcription.transcript import Segment, Transcription, space_between
from dualasr.transcription.writers import render

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]


@dataclass(frozen=True)
class ResponseOptions:
    """Form of a response.

    Attributes:
        format: Format of the transcript.
        granularities: Whether verbose_json has segments, words or both.
        names: English names of languages in lower case, by code.
        task: "transcribe" or "translate".
    """

    format: ResponseFormat
    granularities: frozenset[str]
    names: dict[str, str]
    task: str = "transcribe"

    def text(self, transcript: Transcription) -> str:
        """Return a transcript as text, in the format srt or vtt if that is requested.

        The text of a transcript so far is the beginning of the text of the whole one.
        """
        if self.format in ("srt", "vtt"):
            return render(transcript, self.format)
        return transcript.text.strip() + ("\n" if self.format == "text" else "")

    def body(self, transcript: Transcription) -> dict:
        """Return a transcript in the format json or verbose_json."""
        body: dict[str, Any] = {
            "text": transcript.text.strip(),
            "usage": {"type": "duration", "seconds": transcript.duration},
        }
        body |= {
            "languages": [{"code": transcript.language}] if transcript.language else [],
            "route": transcript.route,
        }
        if self.format != "verbose_json":
            return body
        spoken = self.names.get(transcript.language or "", transcript.language or "")
        language = "english" if self.task == "translate" else spoken  # language of the text
        body |= {
            "task": self.task,
            "language": language,
            "duration": transcript.duration,
            "language_probs": transcript.language_probs,
        }
        if "segment" in self.granularities:
            texts = spaced_texts(transcript.segments)
            body["segments"] = [
                self._segment(i, segment, text)
                for i, (segment, text) in enumerate(zip(transcript.segments, texts, strict=True))
            ]
        if "word" in self.granularities:
            words = [word for segment in transcript.segments for word in segment.words]
            body["words"] = [
                {"word": word.word.strip(), "start": word.start, "end": word.end} for word in words
            ]
        return body

    def _segment(self, number: int, segment: Segment, text: str) -> dict:
        return {
            "id": number,
            "seek": segment.seek,
            "start": segment.start,
            "end": segment.end,
            "text": text,
            "tokens": list(segment.tokens),
            "temperature": segment.temperature,
            "avg_logprob": segment.avg_logprob,
            "compression_ratio": segment.compression_ratio,
            "no_speech_prob": segment.no_speech_prob,
            "route": segment.route,
            "language": segment.language,
            "reason": segment.reason,
        }

    def response(self, transcript: Transcription) -> Response:
        """Return the HTTP response with a whole transcript."""
        if self.format in ("json", "verbose_json"):
            return JSONResponse(self.body(transcript))
        kind = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}[self.format]
        return PlainTextResponse(self.text(transcript), media_type=kind)

    def done(self, transcript: Transcription) -> dict:
        """Return the last event of a stream: the whole text, and all fields of verbose_json."""
        extra = self.body(transcript) if self.format == "verbose_json" else {}
        return {**extra, "type": "transcript.text.done", "text": self.text(transcript)}


def spaced_texts(segments: Sequence[Segment]) -> list[str]:
    """Return the texts of segments as OpenAI writes them: joined without more they are the text.

    Each begins with a space, but in languages that are written without spaces.
    """
    return [
        (" " if scoring_unit(segment.language or "") != "character" else "") + segment.text
        if previous is None
        else space_between(previous, segment) + segment.text
        for previous, segment in zip([None, *segments], segments, strict=False)
    ]


def delta(text: str) -> dict:
    """Return an event with new text."""
    return {"type": "transcript.text.delta", "delta": text}


def event(data: dict) -> str:
    """Write a server-sent event."""
    return f"event: {data.get('type', 'error')}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
