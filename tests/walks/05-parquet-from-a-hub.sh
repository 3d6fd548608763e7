# Shards of parquet below data/, numbers for labels, a test without labels.
lay_out parquet hub
septet launch experiment=tiny_imagenet ensemble=five dataset@datasets.target=parquet datasets.target.root=hub \
  submission=probabilities $SHORT run_dir=run
septet verify run
lines_of_submission_are 9
