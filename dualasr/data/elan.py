"""Read ELAN files.

The parser is our own. pympi-ling was tried: it stops with a KeyError at a file without the names of
ELAN's schema, knows no TIME_ORIGIN, gives no time to a slot without a value, and no lines.
"""

import re
from collections.abc import Mapping
from itertools import groupby
from urllib.parse import unquote
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from dualasr.data.utterance import Annotation, Annotations, Media

_KINDS = ("ALIGNABLE_ANNOTATION", "REF_ANNOTATION")
_DEEPEST = 100  # references that are followed; more are a circle


def parse_elan(text: str) -> Annotations:
    """Read the annotations of an ELAN file.

    - A time slot without a value has its time from its neighbours: the annotations between two
      known times share the time between them evenly.
    - An annotation of a dependent tier has the times of the annotation that it depends on. If
      several depend on the same one, they are joined in the order of PREVIOUS_ANNOTATION: nobody
      knows where one of them ends.
    - A file with a DOCTYPE is refused: ELAN writes none, and its entities could fill the memory.

    Args:
        text: The content of the file.

    Raises:
        ValueError: The text is no ELAN file, or has a DOCTYPE.
    """
    root = _xml(text)
    if root.tag != "ANNOTATION_DOCUMENT":
        raise ValueError(f"is no ELAN file: its root is {root.tag}, not ANNOTATION_DOCUMENT")
    slots = {
        slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE") or None for slot in root.iter("TIME_SLOT")
    }
    known = {id: int(value) / 1000 for id, value in slots.items() if value and _is_time(value)}
    times = known | _times_between(root, slots, known)
    spans = {
        a.get("ANNOTATION_ID"): (a.get("TIME_SLOT_REF1"), a.get("TIME_SLOT_REF2"))
        for a in root.iter("ALIGNABLE_ANNOTATION")
    }
    parents = {a.get("ANNOTATION_ID"): a.get("ANNOTATION_REF") for a in root.iter("REF_ANNOTATION")}

    def aligned(id: str | None) -> str | None:
        """Follow the references to the annotation that has times."""
        for _ in range(_DEEPEST):
            if id in spans or id not in parents:
                break
            id = parents[id]
        return id

    segments: list[tuple[int, Annotation | str]] = []
    places = _places(root)
    for tier in root.iter("TIER"):
        said: dict[str | None, list[str]] = {}
        lines: dict[str | None, int] = {}
        elements = [a for kind in _KINDS for a in tier.iter(kind)]
        elements.sort(key=lambda a: places.get(a.get("ANNOTATION_ID"), ()))
        for element in elements:
            id = aligned(element.get("ANNOTATION_ID"))
            id = id if id in spans else element.get("ANNOTATION_ID")
            said.setdefault(id, []).append(element.findtext("ANNOTATION_VALUE") or "")
            lines.setdefault(id, int(element.get("line", "0")))
        for id, texts in said.items():
            first, last = spans.get(id, (None, None))
            values = [slots.get(first), slots.get(last)]
            if any(value is not None and not _is_time(value) for value in values):
                reason = f"its times are {values[0]!r} and {values[1]!r}, not milliseconds"
                segments.append((lines[id], reason))
                continue
            annotation = Annotation(
                " ".join(texts),
                times.get(first),
                times.get(last),
                tier.get("TIER_ID") or "",
                tier.get("PARTICIPANT") or None,
            )
            segments.append((lines[id], annotation))
    return Annotations(tuple(segments), media=_media(root))


def _is_time(value: str | None) -> bool:
    return value is not None and value.isascii() and value.isdigit() and len(value) < 13


def _places(root: Element) -> dict[str | None, tuple[int, ...]]:
    """Return the place of each annotation, for sorting.

    Those of one parent and tier follow each other as PREVIOUS_ANNOTATION says, else as in the file,
    and they stand where their parent stands.
    """
    places: dict[str | None, tuple[int, ...]] = {}
    parents: dict[str | None, str | None] = {}
    number = 0
    for tier in root.iter("TIER"):
        for a in (a for kind in _KINDS for a in tier.iter(kind)):
            places[a.get("ANNOTATION_ID")] = (number,)
            number += 1
        after: dict[str | None, list[str | None]] = {}
        for a in tier.iter("REF_ANNOTATION"):
            id, before = a.get("ANNOTATION_ID"), a.get("PREVIOUS_ANNOTATION")
            parents[id] = a.get("ANNOTATION_REF")
            after.setdefault(before, []).append(id)
        # from those that follow none
        waiting = list(reversed(after.get(None, [])))
        seen: set[str | None] = set()
        while waiting:
            id = waiting.pop()
            if id in seen:
                continue
            seen.add(id)
            places[id] = (number,)
            number += 1
            waiting += reversed(after.get(id, []))

    def whole(id: str | None) -> tuple[int, ...]:
        place, at = places[id], id
        for _ in range(_DEEPEST):
            if at not in parents:
                return place
            at = parents[at]
            place = places.get(at, ()) + place
        return places[id]  # a circle of references

    return {id: whole(id) for id in places}


def _times_between(
    root: Element, slots: Mapping[str | None, str | None], known: Mapping[str | None, float]
) -> dict[str | None, float]:
    """Return the times of the slots without a value, as far as their neighbours have times.

    1. The neighbours of a slot are those of the annotations of its tier that begin or end in it: a
       chain of annotations, as a time subdivision has it.
    2. A slot without such neighbours lies between the slots before and after it in TIME_ORDER.
    """
    found: dict[str | None, float] = {}
    for tier in root.iter("TIER"):
        after = {
            a.get("TIME_SLOT_REF1"): a.get("TIME_SLOT_REF2")
            for a in tier.iter("ALIGNABLE_ANNOTATION")
        }
        for first in [slot for slot in after if slot in known]:
            chain = [first]
            while (slot := after.get(chain[-1])) is not None and slots.get(slot, "") is None:
                if slot in found or slot in chain:
                    break
                chain.append(slot)
            if len(chain) > 1 and slot in known:
                step = (known[slot] - known[first]) / len(chain)
                found |= {s: known[first] + i * step for i, s in enumerate(chain[1:], 1)}
    order = list(slots)
    rest = [i for i, slot in enumerate(order) if slots[slot] is None and slot not in found]
    all_times = {**known, **found}
    for _, run in groupby(enumerate(rest), lambda item: item[1] - item[0]):
        places = [i for _, i in run]
        left = all_times.get(order[places[0] - 1]) if places[0] else None
        right = all_times.get(order[places[-1] + 1]) if places[-1] + 1 < len(order) else None
        if left is not None and right is not None and left <= right:
            step = (right - left) / (len(places) + 1)
            found |= {order[i]: left + n * step for n, i in enumerate(places, 1)}
    return found


def _media(root: Element) -> tuple[Media, ...]:
    """Return the recordings that the file names; relative paths first."""
    found = []
    for media in root.iter("MEDIA_DESCRIPTOR"):
        urls = (media.get("RELATIVE_MEDIA_URL"), media.get("MEDIA_URL"))
        paths = tuple(dict.fromkeys(path for url in urls if url and (path := path_of_url(url))))
        origin = media.get("TIME_ORIGIN")
        found.append(Media(paths, _milliseconds(origin) if origin else 0.0))
    return tuple(found)


def _milliseconds(value: str) -> float:
    return int(value) / 1000 if re.fullmatch(r"\s*[-+]?[0-9]{1,12}\s*", value) else 0.0


def path_of_url(url: str) -> str:
    r"""Return the path that ELAN's URL of a medium means, with / between its parts.

    `file:///C:/my%20talks/a.wav` is `C:/my talks/a.wav`; `..\a.wav` is `../a.wav`.
    """
    path = unquote(re.sub(r"(?i)^file:(//[^/\\]*)?", "", url.strip()))
    path = path.replace("\\", "/")
    return path.lstrip("/") if re.match(r"/+[A-Za-z]:/", path) else path


def _xml(text: str) -> Element:
    """Return the root of a tree whose elements have their line as the attribute `line`.

    Raises ValueError for a DOCTYPE and for bad XML.
    """

    def refuse(*_) -> None:
        raise ValueError("has a DOCTYPE, which no ELAN file has; it was not read")

    builder, parser = TreeBuilder(), expat.ParserCreate("utf-8")
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = lambda tag, values: builder.start(
        tag, values | {"line": str(parser.CurrentLineNumber)}
    )
    parser.EndElementHandler, parser.CharacterDataHandler = builder.end, builder.data
    try:
        parser.Parse(text.removeprefix("\ufeff").encode(errors="replace"), True)
    except expat.ExpatError as error:
        raise ValueError(f"is no XML ({error})") from error
    return builder.close()
