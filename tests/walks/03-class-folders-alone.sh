# Class folders without train/, out of an archive that a Mac made.
lay_out flat flowers
septet launch experiment=tiny_imagenet ensemble=five datasets.target.root=flowers submission=labels $SHORT run_dir=run
septet verify run
lines_of_submission_match val
