"""Monitoring: probes during a pretraining run, which need both wings and stand above them."""

from ssl_pretext.monitoring.online_probe import OnlineProbe

__all__ = ["OnlineProbe"]
