"""Probes: small classifiers on frozen features, evaluated with controls, several seeds and intervals."""

from ssl_pretext.probes.controls import before_name, untrained_name
from ssl_pretext.probes.conv import ConvProbe
from ssl_pretext.probes.efficiency import LabelEfficiency
from ssl_pretext.probes.evaluation import evaluate, label_efficiency
from ssl_pretext.probes.finetuning import FinetuneConfig
from ssl_pretext.probes.knn import KNNProbe
from ssl_pretext.probes.linear import LinearProbe
from ssl_pretext.probes.metrics import ACCURACY, Metric, find_metrics
from ssl_pretext.probes.options import EvaluateOptions
from ssl_pretext.probes.registry import create_probe, list_probes, register_probe
from ssl_pretext.probes.report import ProbeReport
from ssl_pretext.probes.report_plots import difference_plot
from ssl_pretext.probes.resnet import ResNetProbe
from ssl_pretext.probes.statistics import (
    Interval,
    Scores,
    Spread,
    describe_difference,
    holm,
    interval,
    mean_interval,
    moderated,
)
from ssl_pretext.probes.training import ProbeConfig, ProbeFactory
from ssl_pretext.probes.verdict import few_steps_warning

__all__ = [
    "ACCURACY",
    "ConvProbe",
    "EvaluateOptions",
    "FinetuneConfig",
    "Interval",
    "KNNProbe",
    "LabelEfficiency",
    "LinearProbe",
    "Metric",
    "ProbeConfig",
    "ProbeFactory",
    "ProbeReport",
    "ResNetProbe",
    "Scores",
    "Spread",
    "before_name",
    "create_probe",
    "describe_difference",
    "difference_plot",
    "evaluate",
    "few_steps_warning",
    "find_metrics",
    "holm",
    "interval",
    "label_efficiency",
    "list_probes",
    "mean_interval",
    "moderated",
    "register_probe",
    "untrained_name",
]
