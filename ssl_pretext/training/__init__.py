"""Pretraining: `fit`, which trains with Lightning, and its configuration, which does not need Lightning."""
