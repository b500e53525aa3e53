"""Pseudo anomalies for training (paper section 3.1): Perlin masks, textures, blending, and the bank that holds them."""
