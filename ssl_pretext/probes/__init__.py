"""Probes: what a frozen representation is worth to a classifier that has few labels, compared with its controls."""

from ssl_pretext.probes.conv import PROBES, ConvProbe, create_probe, list_probes, register_probe
from ssl_pretext.probes.evaluation import evaluate
from ssl_pretext.probes.results import ProbeReport
from ssl_pretext.probes.statistics import mean_interval, paired_difference
from ssl_pretext.representations import Pixels, Representation

__all__ = [
    "PROBES",
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
