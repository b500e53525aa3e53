"""Names of files in MLflow that writers and readers share."""

MODEL_FILE = "model.onnx"
"""The exported detector, in the folder of a version's model."""
