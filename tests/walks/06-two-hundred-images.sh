# Ten classes of twenty images: the experiment's warm-up is longer than the training, and plan says so.
lay_out small tiny
septet plan experiment=tiny_imagenet ensemble=five datasets.target.root=tiny schedule.epochs=4 >plan
grep "100 updates of warm-up for" plan
septet launch experiment=tiny_imagenet ensemble=five datasets.target.root=tiny submission=labels $SHORT run_dir=run
septet verify run
