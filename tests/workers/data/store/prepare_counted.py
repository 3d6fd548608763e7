"""Run as a process of its own, which a test kills: prepares a folder and logs every image that it reads or decodes.

`python prepare_counted.py ROOT STORES LOG SIZE`; the log gets `read PATH` and `decode PATH`, a line each.
"""

import os
import sys
from pathlib import Path

from workers.data.sources import files, listing, tree
from workers.data.store import prepare
from workers.settings import DatasetSettings


def main(root: str, stores: str, log: str, size: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    read, load = tree.LocalTree.read, files.FileLoader.load

    def note(what: str, path: str) -> None:
        os.write(descriptor, f"{what} {path}\n".encode())

    def noted_read(self, path):
        note("read", path)
        return read(self, path)

    def noted_load(self, row, size, rules):
        note("decode", row.path)
        return load(self, row, size, rules)

    tree.LocalTree.read, files.FileLoader.load = noted_read, noted_load
    listing._BLOCK = 50
    prepare(DatasetSettings(root=root, size=int(size)), Path(stores))


if __name__ == "__main__":
    main(*sys.argv[1:])
