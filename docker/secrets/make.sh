#!/bin/sh
# Makes the secrets of compose.yaml that are not there yet, each from 32 random bytes: sh docker/secrets/make.sh
set -eu
umask 022
cd "$(dirname "$0")"
# Only this folder's owner can enter it. The files in it may be read by all, since a container's user is another one.
chmod 700 .
random() { od -An -vtx1 -N32 /dev/urandom | tr -d ' \n'; }
# A file appears whole or not at all.
keep() { cat >"$1.new" && mv "$1.new" "$1"; }

test -s postgres_password || random | keep postgres_password
test -s ray_token || random | keep ray_token
test -s s3_credentials || {
  printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$(random | cut -c1-20)" "$(random)" \
    | keep s3_credentials
}
# The same key, as SeaweedFS reads it.
id=$(sed -n 's/^aws_access_key_id = //p' s3_credentials)
key=$(sed -n 's/^aws_secret_access_key = //p' s3_credentials)
printf '{"identities": [{"name": "mlflow", "credentials": [{"accessKey": "%s", "secretKey": "%s"}],
 "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}\n' "$id" "$key" | keep s3_identities
