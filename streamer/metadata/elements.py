"""Elements of EPU's XML documents, whose versions differ in namespaces and prefixes but not in names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from streamer.metadata.numbers import number

if TYPE_CHECKING:
    from collections.abc import Iterator
    from xml.etree import ElementTree


def local_name(element: ElementTree.Element) -> str:
    """Name of an element without its namespace: EPU's versions differ in prefixes, not in names."""
    return element.tag.rpartition("}")[2]


def child_of(element: ElementTree.Element | None, *path: str) -> ElementTree.Element | None:
    """The first element at this path; None where there is none."""
    found = element
    for name in path:
        found = None if found is None else next((child for child in found if local_name(child) == name), None)
    return found


def text_of(element: ElementTree.Element | None, *path: str) -> str | None:
    """Text at this path; None where there is none, or it is empty."""
    return plain(child_of(element, *path)) or None


def plain(element: ElementTree.Element | None) -> str:
    """Text of an element, empty where there is none."""
    return "" if element is None or element.text is None else element.text.strip()


def pairs(root: ElementTree.Element, *path: str) -> dict[str, ElementTree.Element]:
    """Key-value list of EPU, with the elements that contain the values."""

    def found() -> Iterator[tuple[str, ElementTree.Element]]:
        for pair in child_of(root, *path) or ():
            key, value = text_of(pair, "Key"), child_of(pair, "Value")
            if key is not None and value is not None:
                yield key, value

    return dict(found())


def scaled(text: str | None, factor: float) -> float | None:
    """The number in our unit; None where there is no finite one."""
    value = number(text)
    return None if value is None or not math.isfinite(value * factor) else value * factor + 0.0


def rounded(value: float | None) -> float | None:
    """µm or degrees to a millionth: what is behind it comes from the change of the unit."""
    return None if value is None else round(value, 6) + 0.0


def truth(text: str | None) -> bool | None:
    """Yes or no in EPU's words; None for anything else."""
    return {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}.get((text or "").lower())
