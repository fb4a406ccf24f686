"""Pre-train BERT-family encoders in less than half the time, by multi-stage layerwise training."""

__version__ = "0.1.0"
