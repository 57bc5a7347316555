"""Spectrograms for HTML pages, drawn by librosa, with each word above the time it is said."""

import io
import warnings
from collections.abc import Sequence

import numpy as np

from dualasr.audio.load import SAMPLE_RATE

TimedText = tuple[float, float, str]  # start and end in seconds, and what is said

SHOWN_S = 30.0  # seconds; of a longer clip only the beginning is shown
_BANDS, _COLUMNS = 64, 450  # cells of a picture: enough for the eye, and a few kilobytes
_FLOOR_DB, _STEP_DB = 60.0, 6.0  # the range below the loudest cell, and the range of one colour
_WIDTH_PT, _HEIGHT_PT, _ROW_PT = 691.0, 110.0, 11.0  # of the axes, and of a row of words
_LEFT_PT, _RIGHT_PT, _BELOW_PT, _FONT_PT = 38.0, 8.0, 30.0, 8.0  # margins, and size of the text
_MOST_ROWS = 4  # of words above the picture


def spectrogram_svg(
    samples: np.ndarray,
    label: str,
    words: Sequence[TimedText] = (),
    *,
    scale: str = "mel",
    line_hz: float | None = None,
) -> str:
    """Draw a spectrogram, with the words above it, as an SVG element that holds a PNG.

    The words are text of the page, so the browser's fonts can write every script.

    Args:
        samples: float, shape (samples,), 16 kHz; the first 30 s are shown.
        label: What the picture shows, for a screen reader. Pictures of one page need different
            labels.
        words: Words with their start and end, in seconds from the first sample. A word is written
            where it starts, and a bar shows how long it lasts.
        scale: Scale of the frequency axis, "mel" or "linear".
        line_hz: Frequency of a dashed line, in Hz; None draws none.

    Returns:
        An SVG element in the page's own colour, about 20 kB.
    """
    import librosa
    from librosa.display import specshow
    from matplotlib.figure import Figure

    samples = samples[: int(SHOWN_S * SAMPLE_RATE)]
    samples = np.pad(samples, (0, max(0, SAMPLE_RATE // 10 - len(samples))))
    seconds = len(samples) / SAMPLE_RATE
    words = [word for word in words if word[0] < seconds]
    places = _places(words, seconds)
    above = _ROW_PT * (max((row for _, row in places), default=-1) + 1) + 6
    across, height = _LEFT_PT + _WIDTH_PT + _RIGHT_PT, above + _HEIGHT_PT + _BELOW_PT
    figure = Figure(figsize=(across / 72, height / 72), dpi=72)
    axes = figure.add_axes(
        (_LEFT_PT / across, _BELOW_PT / height, _WIDTH_PT / across, _HEIGHT_PT / height)
    )
    # 1. the energy of each cell in dB, rounded to few levels, which makes a small PNG
    hop = max(SAMPLE_RATE // 100, len(samples) // _COLUMNS)
    if scale == "mel":
        power = librosa.feature.melspectrogram(
            y=samples, sr=SAMPLE_RATE, n_fft=512, hop_length=hop, n_mels=_BANDS
        )
    else:
        power = np.abs(librosa.stft(samples, n_fft=2 * (_BANDS - 1), hop_length=hop)) ** 2
    cells = librosa.power_to_db(power, ref=np.max, top_db=_FLOOR_DB)
    specshow(
        np.round(cells / _STEP_DB) * _STEP_DB,
        sr=SAMPLE_RATE,
        hop_length=hop,
        x_axis="time",
        y_axis=scale,
        cmap="magma",
        ax=axes,
    )
    # 2. the axes
    axes.set_xlim(0, min(seconds, (cells.shape[1] - 0.5) * hop / SAMPLE_RATE))
    axes.set_yticks([1000, 2000, 4000, 8000], ["1", "2", "4", "8"], fontsize=_FONT_PT)
    axes.tick_params(axis="x", labelsize=_FONT_PT)
    axes.set_xlabel("s", fontsize=_FONT_PT)
    axes.set_ylabel("kHz", fontsize=_FONT_PT)
    if line_hz is not None:
        axes.axhline(line_hz, color="white", linestyle="--", linewidth=1)
    # 3. each word: a line through the picture at its start, a bar from start to end, its text
    over = axes.get_xaxis_transform()  # x in seconds, y in heights of the axes
    tops = [1 + (2 + row * _ROW_PT) / _HEIGHT_PT for _, row in places]
    starts, ends = [start for start, _, _ in words], [min(end, seconds) for _, end, _ in words]
    axes.vlines(starts, 0, 1, "white", linewidth=0.5, transform=over)
    axes.hlines(tops, starts, ends, "#888888", linewidth=1, clip_on=False, transform=over)
    for (_, _, text), (at, _), top in zip(words, places, tops, strict=True):
        y = top + 1 / _HEIGHT_PT
        axes.text(at, y, text.strip(), fontsize=_FONT_PT, parse_math=False, transform=over)
    return figure_svg(figure, label)


def _places(words: Sequence[TimedText], seconds: float) -> list[tuple[float, int]]:
    """Choose the time in seconds and the row where each word is written.

    A word takes the lowest row that is free at its start; where none is, the row that is free
    first. A word that would pass the right end is moved to the left.
    """
    free_s, places = [0.0] * _MOST_ROWS, []
    for start, end, text in words:
        width_s = (len(text.strip()) * 0.6 + 0.5) * _FONT_PT / _WIDTH_PT * seconds
        at = max(0.0, min(start, seconds - width_s))
        row = next((i for i, s in enumerate(free_s) if s <= at), int(np.argmin(free_s)))
        free_s[row] = max(at + width_s, end)
        places.append((at, row))
    return places


def figure_svg(figure, label: str) -> str:
    """Return a figure as an SVG element in the page's own colour and font.

    The same figure with the same label gives the same text.

    Args:
        figure: A matplotlib Figure.
        label: What the figure shows, for a screen reader.
    """
    import matplotlib
    from markupsafe import escape

    # the name of a file in the label need not be valid UTF-8
    label = label.encode("utf-8", "backslashreplace").decode()
    out = io.StringIO()
    with (
        matplotlib.rc_context(
            {"svg.fonttype": "none", "svg.hashsalt": label, "text.parse_math": False}
        ),
        warnings.catch_warnings(),
    ):
        # matplotlib's own font lacks most scripts, but the browser writes the text
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(
            out,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    svg = out.getvalue()
    svg = svg[svg.index("<svg ") :].replace("#000000", "currentColor")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
