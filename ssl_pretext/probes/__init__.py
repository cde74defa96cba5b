"""Probes: small classifiers on frozen features, with controls, seeds and intervals."""

from ssl_pretext.probes.conv import ConvProbe, create_probe, list_probes, register_probe
from ssl_pretext.probes.evaluation import evaluate
from ssl_pretext.probes.results import ProbeReport
from ssl_pretext.probes.statistics import mean_interval, paired_difference
from ssl_pretext.representations import Pixels, Representation

__all__ = [
    "ConvProbe",
    "Pixels",
    "ProbeReport",
    "Representation",
    "create_probe",
    "evaluate",
    "list_probes",
    "mean_interval",
    "paired_difference",
    "register_probe",
]
