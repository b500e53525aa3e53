"""What a server loads: on an edge box neither training software nor a registry's client is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from serving import detector

NOT_NEEDED = ("boto3", "cv2", "matplotlib", "mlflow", "onnx", "pandas", "pyarrow", "scipy", "sklearn", "torch", "yaml")
SCRIPT = """
import sys
for name in {unwanted!r}:
    sys.modules[name] = None  # importing it fails from now on
from pathlib import Path
from fastapi.testclient import TestClient
from stlm_core.server.app import build_app
from stlm_core.server.lines import Lines
from stlm_core.server.metrics import Metrics
from stlm_core.server.run import serve
from stlm_core.server.service import Service
from stlm_core.server.settings import Limits
from stlm_core.server.sources import FileSource
metrics = Metrics()
source = FileSource(Path({model!r}), None)
lines = Lines(source, source.lines(), metrics=metrics)
lines.start()
with TestClient(build_app(Service(lines, Limits(), metrics))) as client:
    assert client.get("/readyz").status_code == 200
    content, headers = Path({image!r}).read_bytes(), {{"content-type": "image/png"}}
    answer = client.post("/v1/lines/tiny/inspect", content=content, headers=headers)
    assert answer.json()["verdict"] == "normal", answer.text
assert lines.stop(10)
"""


def test_a_file_is_served_without_a_registrys_client(tmp_path: Path) -> None:
    from serving import png

    model, image = tmp_path / "model.onnx", tmp_path / "image.png"
    model.write_bytes(detector("r1"))
    image.write_bytes(png())
    script = SCRIPT.format(unwanted=NOT_NEEDED, model=str(model), image=str(image))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
