"""STLM: a SAM-guided two-stream lightweight model for visual anomaly detection, as a production pipeline."""

__version__ = "0.1.0"
