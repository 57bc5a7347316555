"""How the model's work is interrupted.

Functions that run for long take an `OnStep`, and call it between their steps: after each layer of
an encoder, each step of a decoder, and each window. It may do other work, or raise an exception to
stop this work. Nothing is left half done: an exception passes through, and results are only
returned at the end.
"""

from collections.abc import Callable

OnStep = Callable[[], None]


def uninterrupted() -> None:
    """Go on: the `OnStep` of work that nobody interrupts."""
