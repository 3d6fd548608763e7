# val has a class that train lacks: the line names it; without it the launch runs.
lay_out too_many birds
extra=$(ls birds/val | tail -1)
refused 3 "$extra" septet launch experiment=tiny_imagenet ensemble=five datasets.target.root=birds $SHORT run_dir=run
rm -r "birds/val/$extra"
septet launch experiment=tiny_imagenet ensemble=five datasets.target.root=birds submission=labels $SHORT run_dir=run
septet verify run
