# Two hundred photographs of twelve megapixels.
lay_out photographs photos
septet launch experiment=tiny_imagenet ensemble=five datasets.target.root=photos submission=labels $SHORT run_dir=run
septet verify run
