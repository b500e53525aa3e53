"""Frozen teachers: images in, L2-normalised feature maps out."""
