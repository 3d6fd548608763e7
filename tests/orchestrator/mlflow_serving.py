"""`mlflow models serve` as a process."""

import os
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def model_served(model, port, log, **environment):
    """Serves a model's folder or URI at `port`, without pickles; its output is in the file `log`."""
    words = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "-p", str(port)]
    # MLflow looks for uvicorn on the path, as in an environment that a user has activated.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "PATH": path} | environment
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [*words, "--env-manager", "local"], env=environment, stdout=stream, stderr=stream, start_new_session=True
        )
        try:
            until = time.monotonic() + 120
            while True:
                assert server.poll() is None and time.monotonic() < until, log.read_text()[-2000:]
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2):
                        break
                except OSError:
                    time.sleep(0.3)
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, 9)
            server.wait()
