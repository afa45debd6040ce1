"""Disk space that is kept free: no movie is started while a volume has less; processing resumes when it has more."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.config import InstanceSettings
    from service.health.alarms import Alarms
    from service.health.disks import Space

_AGAIN = 1.05
"""Free space, as a multiple of the reserve, at which processing resumes: deleting one file does not toggle it."""
_ALARM = "disk-reserve"
_VOLUMES = ("output", "state")


class Reserve:
    """Decides whether there is room to start a movie."""

    def __init__(self, settings: InstanceSettings, alarms: Alarms) -> None:
        self._settings, self._alarms = settings, alarms
        self._short: list[str] = []

    @property
    def is_used_up(self) -> bool:
        """Whether nothing may be started."""
        return bool(self._short)

    def look(self, spaces: Mapping[str, Space]) -> None:
        """Check the free space of the volumes; one that does not answer is ignored."""
        self._short = short = [name for name in _VOLUMES if name in spaces and self._is_short(name, spaces[name])]
        if not short:
            self._alarms.clear(_ALARM)
            return
        name = short[0]
        # rounded, so that the message does not change with every byte
        reserve = kept_free(self._settings, spaces[name])
        words = f"{name} volume: {spaces[name].free / 1e9:.1f} GB free, reserve {reserve / 1e9:.1f} GB"
        self._alarms.raise_(_ALARM, f"{words}; no movie is started until you free some space", "critical")

    def _is_short(self, name: str, space: Space) -> bool:
        return space.free < kept_free(self._settings, space) * (_AGAIN if name in self._short else 1.0)


def kept_free(settings: InstanceSettings, space: Space) -> float:
    """Bytes that are kept free on a volume: the smaller of the two reserves."""
    return min(settings.disk_reserve_gb * 1e9, settings.disk_reserve_percent / 100.0 * space.total)
