# Two classes of photographs whose orientation is in EXIF.
lay_out phone photos
septet launch experiment=tiny_imagenet ensemble=five datasets.target.root=photos submission=labels $SHORT run_dir=run | tee said
septet verify run
said_of_data run "EXIF orientation, applied"
