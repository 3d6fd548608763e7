# The machine stopped, and the shell's history is gone: the run itself knows how it was launched.
lay_out flat flowers
septet launch experiment=tiny_imagenet ensemble=five datasets.target.root=flowers submission=labels $SHORT run_dir=runs/flowers &
launch=$!
until ls runs/flowers/members/*/*/checkpoints/step-* >/dev/null 2>&1; do sleep 0.2; done
kill -9 $launch
wait $launch || true
septet list
(cd / && septet resume "$OLDPWD/runs/flowers")
septet verify runs/flowers
