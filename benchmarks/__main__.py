"""Measures rows, prints one markdown table and writes JSON: `python -m benchmarks [ROW …]`."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import table
from benchmarks.catalogue import ENTRIES, Entry
from benchmarks.row import Row, Settings, Skipped

_JSON = Path(__file__).parent / "results" / "latest.json"


def _rows_help() -> str:
    width = max(len(entry.name) for entry in ENTRIES)
    lines = [f"  {e.name:<{width}}  {e.what} ({e.cost}{', long' if e.long else ''})" for e in ENTRIES]
    return "rows:\n" + "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=_rows_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows to measure (default: all but the long ones)")
    parser.add_argument("--long", action="store_true", help="measure the long rows too")
    parser.add_argument("--repeats", type=int, default=7, help="repeats of each side, in turns (default: 7)")
    parser.add_argument("--long-repeats", type=int, default=1, help="repeats of the long rows (default: 1)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the full-size rows (default: 2)")
    parser.add_argument("--images", type=Path, help="a folder of full-resolution JPEG photographs")
    parser.add_argument("--tiny-imagenet", type=Path, help="class folders at 64 pixels, with target-10.txt")
    parser.add_argument("--cifar10", type=Path, help="class folders at 32 pixels: train/ and test/")
    parser.add_argument("--epochs-share", type=float, default=1.0, help="share of the long rows' epochs, both sides")
    parser.add_argument("--scratch", type=Path, help="folder for temporary files (default: the system's)")
    parser.add_argument("--markdown", type=Path, help="also write date, machine and table to this file")
    parser.add_argument(
        "--json", type=Path, default=_JSON, help=f"default: {_JSON.relative_to(Path(__file__).parents[1])}"
    )
    return parser


def _chosen(options: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Entry]:
    unknown = set(options.rows) - {entry.name for entry in ENTRIES}
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(entry.name for entry in ENTRIES)}")
    if options.rows:
        return [entry for entry in ENTRIES if entry.name in options.rows]
    return [entry for entry in ENTRIES if options.long or not entry.long]


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _measure(entries: list[Entry], options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    for entry in entries:
        _say(f"{entry.name}: {entry.what}, about {entry.cost}")
        since = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="septet-bench-", dir=options.scratch) as scratch:
            settings = Settings(
                threads=options.threads,
                repeats=options.repeats,
                long_repeats=options.long_repeats,
                scratch=Path(scratch),
                images=options.images and options.images.absolute(),
                tiny_imagenet=options.tiny_imagenet and options.tiny_imagenet.absolute(),
                cifar10=options.cifar10 and options.cifar10.absolute(),
                epochs_share=options.epochs_share,
            )
            try:
                measured = entry.run(settings)
            except Skipped as skipped:
                _say(f"{entry.name}: skipped: {skipped}")
                continue
        rows.extend(measured)
        for row in measured:
            _say(table.markdown_line(row))
        _say(f"{entry.name}: {time.monotonic() - since:.0f} s")
    return rows


def main() -> None:
    parser, entered = _parser(), sys.argv[1:]
    options = parser.parse_args(entered)
    described = table.machine()
    rows = _measure(_chosen(options, parser), options)
    print(table.markdown(rows))
    # Paths of images are private.
    command = ("python", "-m", "benchmarks", *("…" if "/" in word else word for word in entered))
    if options.markdown:
        options.markdown.write_text(table.section(rows, described, command))
    table.write_json(options.json, rows, described, command)


if __name__ == "__main__":
    main()
