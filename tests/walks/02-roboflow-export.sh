# An export with train/, valid/ and test/, each with class folders.
lay_out roboflow export
septet launch experiment=tiny_imagenet ensemble=five datasets.target.root=export submission=labels $SHORT run_dir=run
septet verify run
lines_of_submission_are 25
