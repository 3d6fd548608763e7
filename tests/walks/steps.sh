# What the walks share. IMAGES, WALKS and PYTHON are set; the working directory is empty.
set -euo pipefail
# A walk shows the way, not the score: few epochs.
SHORT="schedule.epochs=4 schedule.warmup_updates=2 precision=fp32"

lay_out() { "$PYTHON" "$WALKS/inputs.py" "$1" "$IMAGES" "$2"; }

# refused CODE WORD COMMAND…: the command ends with that exit code, and its last line has the word.
refused() {
  local code=$1 word=$2 found=0
  shift 2
  "$@" 2>refusal >/dev/null || found=$?
  tail -1 refusal
  [ "$found" = "$code" ] || { echo "exit $found in place of $code" >&2; return 1; }
  tail -1 refusal | grep -qF -- "$word"
}

submission() { ls run/submission/submission.*; }

ids_of_submission_are() { diff <(cut -d, -f1 "$1" | tr -d '\r') <(cut -d, -f1 "$(submission)"); }

lines_of_submission_are() { [ "$(wc -l <"$(submission)")" = "$1" ]; }

# The submission has a line for each image of the split, and a header.
lines_of_submission_match() { lines_of_submission_are $(("$(wc -l <run/data/"$1".rows.txt)" + 1)); }
