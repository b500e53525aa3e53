"""Measurements behind the figures of docs/."""
