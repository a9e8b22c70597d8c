"""Figures of a service in the format of Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters of one service, apart from those of others in the same process."""

    def __init__(self) -> None:
        """Start at 0."""
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "flexunet_requests", "Requests by path and HTTP status.", ["path", "status"], registry=self._registry
        )
        self.images = Counter("flexunet_images", "Images segmented, by model.", ["model"], registry=self._registry)
        self.seconds = Histogram(
            "flexunet_segment_seconds",
            "Decoding, network and encoding of an image.",
            ["model"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self.taken = Gauge("flexunet_requests_in_progress", "Requests computed or waiting.", registry=self._registry)
        self.places = Gauge("flexunet_places", "Requests that may be computed or wait.", registry=self._registry)

    def text(self) -> bytes:
        """Return all figures."""
        return generate_latest(self._registry)
