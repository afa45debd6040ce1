"""XML from other programs, without what makes XML dangerous."""

from __future__ import annotations

import re
from xml.etree import ElementTree

MAX_ELEMENTS = 500_000
_ENCODINGS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"<\0": "utf-16-le", b"\0<": "utf-16-be"}
"""By the first two bytes: a mark of the byte order, or the first sign without one."""
_OF_WINDOWS = re.compile(rb"""<\?xml[^>]{0,80}encoding=["'](?:iso-8859-1|windows-125\d|us-ascii)["']""", re.IGNORECASE)
"""Declared code pages, in which everything that is read here is written alike."""


def parse_xml(document: bytes) -> ElementTree.Element:
    """Parse a document in UTF-8, UTF-16, or the code page of Windows that it declares.

    Raises
    ------
    ValueError
        It is not XML, has a DTD or entities, or is larger than a sidecar can be.
    """
    # Decoded here, so that no other encoding can hide a DTD from the check that follows.
    encoding = "latin-1" if _OF_WINDOWS.match(document) else _ENCODINGS.get(document[:2], "utf-8-sig")
    try:
        # an empty line before the declaration is an error in XML, and met
        text = document.decode(encoding).lstrip()
    except UnicodeDecodeError as error:
        raise ValueError("contains letters of another encoding than it declares") from error
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("XML with a document type or entities is not accepted")
    if text.count("<") > 2 * MAX_ELEMENTS:
        raise ValueError(f"XML of more than {MAX_ELEMENTS} elements is not accepted")
    try:
        return ElementTree.fromstring(text)  # noqa: S314 - see above
    except ElementTree.ParseError as error:
        raise ValueError(f"is not XML ({error})") from error
