"""A transcript in the response formats of OpenAI's transcription endpoint, whole and as a stream of
events.
"""

import json
from dataclasses import dataclass
from typing import Literal

from fastapi.responses import JSONResponse, PlainTextResponse, Response

from dualasr.transcription.transcript import Segment, Transcription
from dualasr.transcription.writers import render

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
Granularity = Literal["word", "segment"]


@dataclass(frozen=True)
class Wanted:
    """How a transcript is to be answered; `names` are those of the languages, by code."""

    format: ResponseFormat
    granularities: frozenset[Granularity]
    names: dict[str, str]
    task: str = "transcribe"

    def text(self, transcript: Transcription) -> str:
        """What a client that wants text reads; that of a transcript's beginning is the beginning of
        the text.
        """
        if self.format in ("srt", "vtt"):
            return render(transcript, self.format)
        return transcript.text.strip() + ("\n" if self.format == "text" else "")

    def body(self, transcript: Transcription) -> dict:
        """The JSON of `json` and `verbose_json`."""
        body = {
            "text": transcript.text.strip(),
            "usage": {"type": "duration", "seconds": transcript.duration},
        }
        body |= {
            "languages": [{"code": transcript.language}] if transcript.language else [],
            "route": transcript.route,
        }
        if self.format != "verbose_json":
            return body
        heard = self.names.get(transcript.language or "", transcript.language or "")
        language = "english" if self.task == "translate" else heard  # that of the text
        body |= {
            "task": self.task,
            "language": language,
            "duration": transcript.duration,
            "language_probs": transcript.language_probs,
        }
        if "segment" in self.granularities:
            body["segments"] = [
                self._segment(i, segment) for i, segment in enumerate(transcript.segments)
            ]
        if "word" in self.granularities:
            words = [word for segment in transcript.segments for word in segment.words]
            body["words"] = [
                {"word": word.word.strip(), "start": word.start, "end": word.end} for word in words
            ]
        return body

    def _segment(self, number: int, segment: Segment) -> dict:
        return {
            "id": number,
            "seek": segment.seek,
            "start": segment.start,
            "end": segment.end,
            "text": segment.text,
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
        if self.format in ("json", "verbose_json"):
            return JSONResponse(self.body(transcript))
        kind = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}[self.format]
        return PlainTextResponse(self.text(transcript), media_type=kind)

    def done(self, transcript: Transcription) -> dict:
        """The last event of a stream: the whole text, and of `verbose_json` all else."""
        extra = self.body(transcript) if self.format == "verbose_json" else {}
        return {**extra, "type": "transcript.text.done", "text": self.text(transcript)}


def delta(text: str) -> dict:
    """An event for text that is new."""
    return {"type": "transcript.text.delta", "delta": text}


def event(data: dict) -> str:
    """A server-sent event."""
    return f"event: {data.get('type', 'error')}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
