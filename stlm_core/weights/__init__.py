"""Pretrained weight files: the catalogue, the cache folder, and how a file gets there."""
