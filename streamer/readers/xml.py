"""XML from other programs, without what makes XML dangerous."""

from __future__ import annotations

from xml.etree import ElementTree

MAX_ELEMENTS = 500_000
_ENCODINGS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"<\0": "utf-16-le", b"\0<": "utf-16-be"}
"""By the first two bytes: a mark of the byte order, or the first sign without one."""


def parse_xml(document: bytes) -> ElementTree.Element:
    """Parse a document in UTF-8 or UTF-16.

    Raises
    ------
    ValueError
        It is not XML, has a DTD or entities, or is larger than a sidecar can be.
    """
    # Decoded here, so that no other encoding can hide a DTD from the check that follows.
    text = document.decode(_ENCODINGS.get(document[:2], "utf-8-sig"))
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("XML with a document type or entities is not accepted")
    if text.count("<") > 2 * MAX_ELEMENTS:
        raise ValueError(f"XML of more than {MAX_ELEMENTS} elements is not accepted")
    try:
        return ElementTree.fromstring(text)  # noqa: S314 - see above
    except ElementTree.ParseError as error:
        raise ValueError(f"is not XML ({error})") from error
