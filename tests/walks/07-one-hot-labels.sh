# A csv with a column of 0.0 and 1.0 for each class.
lay_out one_hot skin
septet launch experiment=tiny_imagenet ensemble=five dataset@datasets.target=csv datasets.target.root=skin \
  submission=probabilities $SHORT run_dir=run
septet verify run
lines_of_submission_are 9
