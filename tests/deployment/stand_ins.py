"""What stands for two images that cannot be had without a registry: Postgres as Debian packages it, and an S3 server.

Each is a script for a container's shell, with the words of the image's command as its arguments.
"""

import shutil
import subprocess
from pathlib import Path

# The start of Docker's image `postgres`: a database of the given name, password and user at the first start.
POSTGRES = """
set -e
export PATH={programs}:$PATH PGDATA=/var/lib/postgresql/data
chmod 1777 /run/postgresql
chown 65534:65534 "$PGDATA" && chmod 700 "$PGDATA"
as() {{ setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }}
cp "$POSTGRES_PASSWORD_FILE" /tmp/password && chown 65534 /tmp/password
if ! test -s "$PGDATA/PG_VERSION"; then
  as initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --auth=scram-sha-256 >/tmp/initdb.txt
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  export PGPASSWORD="$(cat /tmp/password)"
  as pg_ctl -w -s start -l /tmp/first.txt -o "-c listen_addresses="
  as createdb --username="$POSTGRES_USER" "$POSTGRES_DB"
  as pg_ctl -w -s stop
  unset PGPASSWORD
fi
exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@" -c listen_addresses=*
"""

# OpenStack Swift with its S3 interface, in place of SeaweedFS: proxy, account, container and object server on one disk.
SWIFT = """
set -e
export PATH={programs}:$PATH
mkdir -p /data/d1
cd /etc/swift
printf '[swift-hash]\\nswift_hash_path_suffix = septet\\n' >swift.conf
for kind in account:6202 container:6201 object:6200; do
  name=${{kind%:*}} port=${{kind#*:}}
  swift-ring-builder $name.builder create 4 1 0 >/tmp/ring.txt
  swift-ring-builder $name.builder add r1z1-127.0.0.1:$port/d1 1 >/tmp/ring.txt
  swift-ring-builder $name.builder rebalance >/tmp/ring.txt || test $? = 1
  cat >$name.conf <<END
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $port
devices = /data
mount_check = false
workers = 0
user = root
recon_cache_path = /tmp
[pipeline:main]
pipeline = $name-server
[app:$name-server]
use = egg:swift#$name
END
  swift-$name-server $name.conf >/tmp/$name.txt 2>&1 &
done
id=$(sed -n 's/.*"accessKey": "\\([^"]*\\)".*/\\1/p' /run/secrets/s3_identities)
key=$(sed -n 's/.*"secretKey": "\\([^"]*\\)".*/\\1/p' /run/secrets/s3_identities)
cat >proxy.conf <<END
[DEFAULT]
bind_ip = 0.0.0.0
bind_port = 8333
workers = 0
user = root
recon_cache_path = /tmp
[pipeline:main]
pipeline = catch_errors healthcheck proxy-logging cache s3api tempauth copy slo dlo proxy-logging proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_${{id%%:*}}_${{id#*:}} = $key .admin
[filter:s3api]
use = egg:swift#s3api
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:proxy-logging]
use = egg:swift#proxy_logging
[filter:cache]
use = egg:swift#memcache
memcache_servers =
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
END
exec swift-proxy-server proxy.conf
"""
SWIFT_FOLDERS = ("/etc/swift",)
SWIFT_HEALTH = "from urllib.request import urlopen; urlopen('http://127.0.0.1:8333/healthcheck', timeout=4)"


def postgres_programs() -> Path | None:
    """The folder of Debian's Postgres, or None."""
    postgres = shutil.which("postgres")
    if postgres:
        return Path(postgres).resolve().parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1].parent if found else None


def installed(folder: Path, python: str, constraints: Path, *packages: str) -> Path | None:
    """A virtual environment with `packages`, or None where pip cannot have them."""
    made = (
        [python, "-m", "venv", str(folder)],
        [str(folder / "bin/pip"), "install", "--quiet", "--constraint", str(constraints), *packages],
    )
    for words in made:
        if subprocess.run(words, capture_output=True, check=False).returncode:
            return None
    return folder
