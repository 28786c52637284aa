#!/usr/bin/env bash
# package.sh DEB: installs the package in a copy of this machine's file system and runs its units there under systemd, from
# the first start without a key to the purge. Runs as root in namespaces of its own, in which systemd is the first process:
#
#   unshare --mount --pid --net --ipc --uts --cgroup --fork --kill-child tests/release/package.sh DEB
set -euo pipefail

fail() {
    printf 'error: %s\n' "$1" >&2
    journalctl --no-pager --lines 40 --unit 'calry-gitops*' >&2 || true
    exit 1
}

if [ "${1:-}" != --inside ]; then
    work=$(mktemp -d)
    mount --make-rprivate /
    mount -t tmpfs none "$work"
    mkdir "$work/upper" "$work/work" "$work/root"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$work/root"
    cp "$1" "$work/root/calry-gitops.deb"
    cp -r definitions "$work/root/definitions"
    cp "$0" "$work/root/package.sh"
    cp tests/git-sync/serve.py "$work/root/serve.py"
    cd "$work/root"
    mount -t proc proc proc
    mount -t sysfs sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount -t tmpfs none run
    mount --rbind /dev dev
    mkdir before
    # A file system of another root may have no user namespaces.
    pivot_root . before
    cd /
    umount --lazy before
    # As systemd makes it on a machine: credentials are mounted in one namespace and seen in others.
    mount --make-rshared /
    systemd-machine-id-setup >/dev/null
    /package.sh --inside &
    exec env container=oci /lib/systemd/systemd --system --unit=basic.target --show-status=0 --log-target=journal
fi

# Ends the first process, and with it everything here.
trap 'systemctl exit $?' EXIT
# until_it SECONDS COMMAND…: repeats it until it succeeds.
until_it() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || fail "it does not come to that: $*"
        sleep 0.1
    done
}
until_it 60 systemctl is-active basic.target
service=calry-gitops.service
pull=calry-gitops-pull.service
as=(setpriv --reuid calry-gitops --regid calry-gitops --clear-groups)

# What keeps services of a machine without systemd from starting.
rm -f /usr/sbin/policy-rc.d
dpkg --install /calry-gitops.deb >/dev/null
[ -s /usr/share/man/man1/calry-gitops-run.1.gz ] || fail "there is no man page"
[ -s /usr/share/bash-completion/completions/calry-gitops ] || fail "there is no completion"
[ "$(stat --format '%U:%G %a' /etc/calry-gitops/secrets)" = "root:calry-gitops 750" ] || fail "others can read the secrets"
if systemctl is-active --quiet "$service" || systemctl is-enabled --quiet "$service"; then fail "it starts without a key"; fi
systemd-analyze verify --man=yes "$service" "$pull" calry-gitops-pull.timer
for unit in "$service" "$pull"; do
    systemd-analyze security --offline=true --threshold=20 "/lib/systemd/system/$unit" | tail -n 1
done
if systemctl start "$service" 2>/dev/null; then fail "it runs without a key"; fi
systemctl stop "$service"
systemctl start "$pull"
echo "the package installs, and nothing starts without a key"

# What docs/install.md describes, with a local Calry.
calry-gitops sandbox --listen 127.0.0.1:4010 >/sandbox 2>&1 &
until_it 60 grep -q 'zepl\.sandbox-write' /sandbox
umask 077
grep -o "zepl\.sandbox-write\.[^ '\"]*" /sandbox | head -n 1 >/etc/calry-gitops/api-key
grep -oh 'secret:[^}]*}' /definitions/*.yaml | tr -d '}' | cut -d : -f 2 | sort -u | while read -r name; do
    echo "$name" >"/etc/calry-gitops/secrets/$name"
    chmod 640 "/etc/calry-gitops/secrets/$name"
    chgrp calry-gitops "/etc/calry-gitops/secrets/$name"
done
umask 022
echo 'apiUrl: http://127.0.0.1:4010' >>/etc/calry-gitops/config.yaml
sed -i 's|^gitUrl: .*|gitUrl: http://127.0.0.1:4020/acme/.git\ngitInterval: 1s|' /etc/calry-gitops/config.yaml
install -d -o calry-gitops /srv/git
git=("${as[@]}" env HOME=/srv/git git -c user.name=a -c user.email=a@example.com)
"${git[@]}" init --quiet --initial-branch main /srv/git/acme
"${as[@]}" cp -r /definitions /srv/git/acme/
"${git[@]}" -C /srv/git/acme add --all
"${git[@]}" -C /srv/git/acme commit --quiet --message "definitions"
"${as[@]}" env HOME=/srv/git python3 -B /serve.py /srv/git 4020 >/serve 2>&1 &
until_it 60 test -s /serve

systemctl start "$service"
until_it 60 curl --fail --silent http://127.0.0.1:8080/readyz
calry-gitops status >/status || true
grep -qi observe /status || fail "it does not observe: $(cat /status)"
main=$(systemctl show --property MainPID --value "$service")
grep -q '^NoNewPrivs:.1$' "/proc/$main/status" || fail "it may gain privileges"
grep -q '^CapBnd:.0*$' "/proc/$main/status" || fail "it has capabilities"
grep -q '^Seccomp:.2$' "/proc/$main/status" || fail "system calls are not filtered"
[ "$(stat --format %U "/proc/$main")" = calry-gitops ] || fail "it runs as $(stat --format %U "/proc/$main")"
if "${as[@]}" cat /etc/calry-gitops/api-key 2>/dev/null; then fail "its user can read the API key's file"; fi
curl --fail --silent http://127.0.0.1:8080/metrics | grep '^process_start_time_seconds' >/dev/null || fail "metrics of the process lack"
echo "the daemon observes, as its user and without privileges"

sed -i 's/^mode: observe/mode: enforce/; s/^maxChanges: .*/maxChanges: 100/' /etc/calry-gitops/config.yaml
systemctl restart "$service"
until_it 60 calry-gitops status
printf 'provider: GUESTY\nicon: https://cdn.example.com/guesty-2.png\n' >/srv/git/acme/definitions/guesty.yaml
"${git[@]}" -C /srv/git/acme commit --quiet --all --message "an icon"
until_it 60 sh -c "journalctl --unit $service | grep 'GUESTY updated'"
systemctl reload "$service"
systemctl stop "$service"
[ "$(systemctl show --property Result --value "$service")" = success ] || fail "it does not stop when it is asked to"
echo "a commit is fetched and reaches Calry"

sed -i '/^git/d; s/^#definitions/definitions/' /etc/calry-gitops/config.yaml
"${git[@]}" clone --quiet /srv/git/acme /var/lib/calry-gitops/repository
systemctl start calry-gitops-pull.timer "$service"
printf 'provider: GUESTY\nicon: https://cdn.example.com/guesty-3.png\n' >/srv/git/acme/definitions/guesty.yaml
"${git[@]}" -C /srv/git/acme commit --quiet --all --message "another icon"
systemctl start "$pull"
until_it 60 sh -c "curl --fail --silent http://127.0.0.1:8080/api/v1/status | grep '\"another icon\"'"
until_it 60 sh -c "journalctl --unit $service | grep -c 'GUESTY updated' | grep -qx 2"
systemctl stop "$service" calry-gitops-pull.timer
echo "a commit is pulled into a checkout and reaches Calry"

echo 'mode: enforce' >/etc/calry-gitops/config.yaml
dpkg --install /calry-gitops.deb >/dev/null
[ "$(cat /etc/calry-gitops/config.yaml)" = 'mode: enforce' ] || fail "an upgrade overwrites the configuration"
dpkg --remove calry-gitops >/dev/null 2>&1
[ ! -e /usr/bin/calry-gitops ] || fail "the program is left after a removal"
[ -e /etc/calry-gitops/config.yaml ] || fail "a removal takes the configuration"
dpkg --purge calry-gitops >/dev/null 2>&1
for left in /etc/calry-gitops /var/lib/calry-gitops; do
    [ ! -e "$left" ] || fail "a purge leaves $left"
done
echo "an upgrade keeps the configuration, and a purge leaves nothing"
