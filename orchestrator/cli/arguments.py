"""Defines the arguments of verbs, each as an argparse parser that a verb's parser takes as a parent."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from workers.errors import ConfigError
from workers.storage import expanded


def _argument(*names: str, **options: Any) -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(*names, **options)
    return parent


def _flag(name: str, said: str) -> argparse.ArgumentParser:
    return _argument(name, action="store_true", help=said)


_path = partial(expanded, error=ConfigError)
# A positional argument is optional if its metavar is in brackets; otherwise the error message quotes `help`.
RUN_DIR = _argument("run_dir", metavar="RUN_DIR", nargs="?", type=_path, help="a run directory")
ANY_RUN_DIR = _argument("run_dir", metavar="[RUN_DIR]", nargs="?", type=_path, help="a run directory")
RUN_DIRS = _argument("run_dirs", metavar="RUN_DIR…", nargs="*", type=_path, help="run directories")
_IMAGES = "at least one image, folder, quoted pattern (**/*.jpg) or list (.csv, .txt), or URL of them (s3://…)"
IMAGES = _argument("images", metavar="IMAGE…", nargs="*", help=_IMAGES)
IMAGE_ID = _argument("image_id", metavar="IMAGE_ID", nargs="?", help="an image's id, as in the submission")
OVERRIDES = _argument("overrides", metavar="[HYDRA OVERRIDES]", nargs="*", help="settings as key=value")
SUBMIT_OVERRIDES = _argument(
    "overrides", metavar="[combine=… submission=…]", nargs="*", help="settings of combine and submission, and metric"
)
FOLDER = _argument("folder", metavar="[FOLDER]", nargs="?", type=_path, default=Path("runs"), help="default: runs")
TOPICS = _argument("topics", metavar="[VERB | config [GROUP]]", nargs="*", help="what to explain")
SHELL = _argument("shell", metavar="SHELL", nargs="?", choices=("bash", "zsh"), help="a shell: bash or zsh")

DEBUG = _flag("--debug", "show a traceback if an error occurs")
JSON = _flag("--json", "print one JSON document")
CFG = _flag("--cfg", "print the composed configuration, and do nothing else")
DRY_RUN = _flag("--dry-run", "say how much would be freed, and delete nothing")
HOST = _argument("--host", default="127.0.0.1", metavar="HOST", help="the address to serve on (default: 127.0.0.1)")
PORT = _argument("--port", type=int, default=5000, metavar="PORT", help="the port (default: 5000, or a free one)")
SERVE_PORT = _argument("--port", type=int, default=8000, metavar="PORT", help="the port (default: 8000; 0: a free one)")
WATCH = _flag("--watch", "refresh until the run ends")
ACCEPT_CHANGES = _flag("--accept-changes", "continue although data or code have changed; the run records it")
TRUST_CODE = _flag("--trust-code", "run the code of nets in files that the configuration names (model.file)")
TOP = _argument("--top", type=int, default=5, metavar="K", help="number of classes to show (default: 5)")
MEMBER = _argument("--member", metavar="NAME", help="one member alone, such as a student, in place of the ensemble")
OUT = _argument("--out", type=_path, metavar="FILE", help="write predictions to FILE (.csv, .json, .jsonl, .parquet)")
_FORMS = "what FILE says: top (the default), probabilities (a column a class), labels, or as a sample submission"
FORM = _argument("--form", default="top", metavar="FORM", help=_FORMS)
_ON_BAD = "images that cannot be read: stop (the default), or give them uniform probabilities and list them"
ON_BAD = _argument("--on-bad", choices=("stop", "list"), default="stop", help=_ON_BAD)
CLUSTER = _argument("--cluster", metavar="ADDRESS", help="use the nodes of the Ray cluster there")
REPLICAS = _argument("--replicas", type=int, metavar="N", help="processes of Ray Serve (default: one without Ray)")
OPEN = _flag("--open", "open the page in the browser")
OUT_FOLDER = _argument("--out", type=_path, metavar="FOLDER", help="the folder to write; it must not exist")
TO = _argument("--to", default="", metavar="FORMS", help="pyfunc,torch,onnx,safetensors (default: all)")
TIMEOUT = _argument(
    "--timeout",
    type=float,
    default=600.0,
    metavar="SECONDS",
    help="how long to wait for the launch to end (default: 600; 0: do not wait)",
)
CONFIG_DIR = _argument("--config-dir", type=_path, metavar="DIR", help="a folder of your own configuration groups")
