"""What a scrape of /metrics gets. The only package that imports prometheus_client."""

from server.metrics.observer import PrometheusObserver

__all__ = ["PrometheusObserver"]
