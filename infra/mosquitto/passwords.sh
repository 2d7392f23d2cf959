#!/bin/sh
# The site's login, made once: a random password for the tiers, and its hash for Mosquitto.
#   passwords.sh            make both files, unless they are there
#   passwords.sh --renew    make a new password; restart broker and tiers afterwards
#   passwords.sh --import   take the password from standard input, for a machine that joins another one's broker
set -eu
umask 077

user="${DIMEE_USER:-dimee}"
hashes="${HASHES_DIR:-/hashes}"        # read by the broker
plain="${PLAIN_DIR:-/plain}"           # read by edge, cloud and device
broker_owner="${BROKER_OWNER:-1883:1883}"    # mosquitto in its official image
tier_owner="${TIER_OWNER:-10001:10001}"      # dimee in infra/Dockerfile

case "${1:-}" in
--import) IFS= read -r password ;;
--renew) password="" ;;
"")
    if [ -s "$hashes/passwords" ] && [ -s "$plain/password" ]; then
        exit 0
    fi
    password=""
    ;;
*)
    echo "passwords.sh: unknown option $1; known are --renew and --import" >&2
    exit 2
    ;;
esac
password="${password:-$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')}"

# -U hashes a file in place, so the password never stands in a process list
printf '%s:%s\n' "$user" "$password" >"$hashes/passwords.new"
mosquitto_passwd -U "$hashes/passwords.new"
printf '%s\n' "$password" >"$plain/password.new"
chmod 0400 "$hashes/passwords.new" "$plain/password.new"
if [ "$(id -u)" = 0 ]; then
    chown "$broker_owner" "$hashes/passwords.new"
    chown "$tier_owner" "$plain/password.new"
fi
mv -f "$hashes/passwords.new" "$hashes/passwords"
mv -f "$plain/password.new" "$plain/password"
echo "login of user $user written" >&2
