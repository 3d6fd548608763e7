# A competition's csv, images in train_images/ and test_images/, and a sample submission to follow.
lay_out kaggle leaves
septet launch experiment=tiny_imagenet ensemble=five dataset@datasets.target=csv datasets.target.root=leaves \
  submission=labels submission.template=leaves/sample_submission.csv $SHORT run_dir=run
septet verify run
ids_of_submission_are leaves/sample_submission.csv
# Another way to combine, as probabilities: the template has one column of labels, and says so.
refused 2 submission.template septet submit run combine=weighted submission=probabilities
septet submit run combine=geometric
ids_of_submission_are leaves/sample_submission.csv
