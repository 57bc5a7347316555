"""A page to try dualasr on, and the transcription endpoint that OpenAI's clients speak."""
