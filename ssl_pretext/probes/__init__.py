"""Probes: small classifiers on frozen features, with controls, seeds and intervals."""

from ssl_pretext.probes.efficiency import LabelEfficiency
from ssl_pretext.probes.evaluation import evaluate, label_efficiency
from ssl_pretext.probes.health import collapse_in_words, feature_health
from ssl_pretext.probes.knn import KNNProbe
from ssl_pretext.probes.linear import LinearProbe
from ssl_pretext.probes.methods import create_probe, list_probes, register_probe
from ssl_pretext.probes.modules import ConvProbe, ProbeTraining
from ssl_pretext.probes.networks import Network, imagenet_reference
from ssl_pretext.probes.resnet import ResNetProbe
from ssl_pretext.probes.results import ProbeReport
from ssl_pretext.probes.saved import load_representation, save_representation
from ssl_pretext.probes.statistics import difference_in_words, mean_interval, paired_difference
from ssl_pretext.representations import Backbone, ColorHistogram, Joined, Pixels, Representation

__all__ = [
    "Backbone",
    "ColorHistogram",
    "ConvProbe",
    "Joined",
    "KNNProbe",
    "LabelEfficiency",
    "LinearProbe",
    "Network",
    "Pixels",
    "ProbeReport",
    "ProbeTraining",
    "Representation",
    "ResNetProbe",
    "collapse_in_words",
    "create_probe",
    "difference_in_words",
    "evaluate",
    "feature_health",
    "imagenet_reference",
    "label_efficiency",
    "list_probes",
    "load_representation",
    "mean_interval",
    "paired_difference",
    "register_probe",
    "save_representation",
]
