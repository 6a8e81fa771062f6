#!/usr/bin/env bash
# Runs blocks of documents in their order. Each argument is KIND:FILE:PLACE, and PLACE is said when it fails.
#   server  commands of which the last one serves; it runs until the next such block, or the end
#   sh      commands of the other shell, which is one and the same for all of them
#   sql     what the database's superuser runs
#   database  what the user `postgres` runs on the machine of the database
# It wants namespaces of its own: there every port and /srv are free, and `db` is a host with a Postgres.
set -eo pipefail

prepare_host() {
  ip link set lo up
  mount -t tmpfs -o mode=755 tmpfs /srv
  mount -t tmpfs -o mode=755 tmpfs /mnt
  echo "127.0.0.1 localhost db" > /mnt/hosts
  mount --bind /mnt/hosts /etc/hosts
}

# Postgres refuses root, also the one that a user namespace makes of somebody else.
as_postgres() {
  if [ "$(awk '{ print $2; exit }' /proc/self/uid_map)" = 0 ]; then
    setpriv --reuid=postgres --regid=postgres --clear-groups "$@"
  else
    unshare --user --map-user=1000 --map-group=1000 "$@"
  fi
}

start_postgres() {
  programs=$(find /usr/lib/postgresql -name bin | sort -V | tail -n 1)
  chmod 1777 /mnt
  as_postgres "$programs/initdb" -D /mnt/database --username=postgres --no-sync --encoding=UTF8 > /dev/null
  as_postgres tee /mnt/database/pg_hba.conf > /dev/null << END
host all,replication postgres 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
END
  as_postgres tee -a /mnt/database/postgresql.conf > /dev/null << END
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
END
  as_postgres "$programs/pg_ctl" -D /mnt/database -w -l /mnt/database/log start > /dev/null
}

start_server() {
  stop_server
  coproc { exec setsid bash -eo pipefail "$1" 2>&1; }
  server=$COPROC_PID
  exec {said}<&"${COPROC[0]}"
  local line
  while IFS= read -r line <&"$said"; do
    echo "$line"
    # The rest of what it says is drained: its end tells that all of its processes have ended.
    if [[ $line == *"serves S3 on"* ]]; then
      cat <&"$said" &
      drain=$!
      return
    fi
  done
  echo "it ended, and never served"
  return 1
}

# As Ctrl-C does: every process of the terminal is told.
stop_server() {
  if [ -n "${server:-}" ]; then
    kill -TERM -- "-$server"
    wait "$drain"
    wait "$server" || true
  fi
}

prepare_host
trap '[ $? = 0 ] || echo "the block at $place failed"' EXIT
for block in "$@"; do
  IFS=: read -r kind file place <<< "$block"
  echo "== $place"
  case $kind in
  server) start_server "$file" ;;
  sh)
    set -x
    # shellcheck source=/dev/null
    . "$file"
    { set +x; } 2> /dev/null
    ;;
  database)
    cp "$file" /mnt/block
    (cd /mnt && PGDATA=/mnt/database PATH="$programs:$PATH" as_postgres bash -exo pipefail /mnt/block)
    ;;
  sql)
    [ -n "${programs:-}" ] || start_postgres
    "$programs/psql" -h 127.0.0.1 -U postgres -v ON_ERROR_STOP=1 -f "$file"
    ;;
  esac
done
stop_server
