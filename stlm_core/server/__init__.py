"""The inspection server: images in over HTTP, verdicts and heat maps out, always from the line's champion.

What runs here needs onnxruntime, numpy, Pillow and FastAPI; no training software. With a registry it needs MLflow's
client, with ``--model`` not even that.
"""
