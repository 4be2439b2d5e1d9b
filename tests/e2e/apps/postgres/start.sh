# Makes the database at the first start, and serves it. A container that starts again finds its data in the volume.
# PGPASSWORD: what the user `chat` has to say. There is nothing but a shell here: no mv, no rm.
set -eu

if [ ! -s "$PGDATA/done" ]; then
  echo "$PGPASSWORD" >/tmp/password
  "$PGBIN/initdb" --username chat --pwfile /tmp/password --auth scram-sha-256 \
    --no-locale --encoding UTF8 --no-sync --pgdata "$PGDATA"
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  echo yes >"$PGDATA/done"
fi

# Not waiting for the disk: what a killed process has written is the kernel's, and survives it.
exec "$PGBIN/postgres" -D "$PGDATA" -c "listen_addresses=*" -c unix_socket_directories= \
  -c shared_buffers=16MB -c max_connections=100 -c max_wal_size=64MB -c jit=off -c fsync=off
