"""What a scrape of /metrics gets. The only package that imports prometheus_client."""

from server.metrics.observer import MOST_EXPERTS, PrometheusObserver
from server.metrics.watched import Watched

__all__ = ["MOST_EXPERTS", "PrometheusObserver", "Watched"]
