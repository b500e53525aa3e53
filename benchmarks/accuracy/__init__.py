"""Accuracy of whole pipeline runs over configurations, lines and seeds, of the methods a user would take instead, and
of a finished model on distorted images. ``python -m benchmarks.accuracy --help``; figures in docs/accuracy.md."""
