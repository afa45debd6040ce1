"""What is remembered about files, in few bytes: a session has tens of thousands, and a daemon runs for a year."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamer.records import FileIdentity

_IDENTITY, _CONTENT_BYTES = struct.Struct("<qqqQQ"), 16
_PROOF, _FILE_BYTES = struct.Struct(">QQI"), 16


def packed(identity: FileIdentity, *, failed: bool) -> bytes:
    """Identity of a delivered file; the full one from a later look starts with it as long as nothing has changed.

    A failed file is looked at again after any change, even of its permissions; others when their content may differ.
    """
    whole = _IDENTITY.pack(identity.size, identity.mtime_ns, identity.ctime_ns, identity.device, identity.inode)
    return whole if failed else whole[:_CONTENT_BYTES]


def proof_of(identity: FileIdentity, n_frames: int) -> bytes:
    """Proof that the header of this file has stated this number of frames."""
    return _PROOF.pack(identity.device, identity.inode, n_frames)


def proves_more(proof: bytes, before: bytes) -> bool:
    """Whether the same file proved fewer frames before."""
    return proof[:_FILE_BYTES] == before[:_FILE_BYTES] and proof > before
