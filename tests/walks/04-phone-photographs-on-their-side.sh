# Two classes of photographs whose orientation is in EXIF.
lay_out phone photos
septet prepare experiment=tiny_imagenet ensemble=five datasets.target.root=photos >said 2>&1
grep "60 images: EXIF orientation, applied" said
septet launch experiment=tiny_imagenet ensemble=five datasets.target.root=photos submission=labels $SHORT run_dir=run
septet verify run
