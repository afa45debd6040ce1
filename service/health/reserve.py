"""Room that is kept free: nothing new is started while a volume has less, and work goes on alone when it has more."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.config import InstanceSettings
    from service.health.alarms import Alarms
    from service.health.disks import Space

_AGAIN = 1.05
"""Free space over the reserve at which work goes on: deleting one file does not make it flicker."""
_ALARM = "disk-reserve"
_VOLUMES = ("output", "state")


class Reserve:
    """Decides whether there is room to start a movie."""

    def __init__(self, settings: InstanceSettings, alarms: Alarms) -> None:
        self._bytes, self._share = settings.disk_reserve_gb * 1e9, settings.disk_reserve_percent / 100.0
        self._alarms = alarms
        self._short: list[str] = []

    @property
    def is_used_up(self) -> bool:
        """Whether nothing may be started."""
        return bool(self._short)

    def look(self, spaces: Mapping[str, Space]) -> None:
        """Take in the free space of the volumes; one that does not answer says nothing."""
        self._short = short = [name for name in _VOLUMES if name in spaces and self._is_short(name, spaces[name])]
        if not short:
            self._alarms.clear(_ALARM)
            return
        name = short[0]
        # rounded, so that the words change with what people see and not with every byte
        words = (
            f"{name} volume: {spaces[name].free / 1e9:.1f} GB free, {self._kept(spaces[name]) / 1e9:.1f} GB are kept"
        )
        self._alarms.raise_(_ALARM, f"{words}; nothing new is started until there is more", "critical")

    def _is_short(self, name: str, space: Space) -> bool:
        return space.free < self._kept(space) * (_AGAIN if name in self._short else 1.0)

    def _kept(self, space: Space) -> float:
        return min(self._bytes, self._share * space.total)
