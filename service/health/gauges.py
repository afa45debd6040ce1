"""Gauges that are absent while their value is unknown."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry


class KnownGauge(Collector):
    """A gauge that exports only what is known: None and NaN remove a sample."""

    def __init__(self, registry: CollectorRegistry, name: str, text: str, labels: tuple[str, ...] = ()) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._values: dict[tuple[str, ...], float] = {}
        registry.register(self)

    def set(self, value: float | None, *labels: str) -> None:
        """Set, or remove, the sample with these label values."""
        if value is None or not math.isfinite(value):
            self._values.pop(labels, None)
        else:
            self._values[labels] = float(value)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the current samples."""
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        # A copy: this runs in the thread of the scrape.
        for labels, value in dict(self._values).items():
            family.add_metric(labels, value)
        yield family

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Yield the name, so that no other metric can take it."""
        yield GaugeMetricFamily(self._name, self._text, labels=self._labels)
