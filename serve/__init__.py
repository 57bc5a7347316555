"""A web page for dualasr, and an API like that of OpenAI for transcription."""
