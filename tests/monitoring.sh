#!/usr/bin/env bash
# Shows metrics, alerts and dashboard to Prometheus: promtool judges what a daemon exports and tests the rules; then a
# Prometheus scrapes the daemon, and alerts fire when Calry stops answering and when the daemon is gone, and resolve after.
# The rules are the ones that are shipped, but for their waits, which are a second each.
#
# Needs a built binary (target/debug/calry-gitops, or the one that CALRY_GITOPS names) and a Debian of which it may install
# packages.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
binary=${CALRY_GITOPS:-$root/target/debug/calry-gitops}
monitoring=$root/deploy/monitoring
work=$(mktemp -d)
declare -A running=()
finish() {
    local pid
    for pid in "${running[@]}"; do kill -CONT "$pid" 2>/dev/null && kill "$pid" 2>/dev/null; done || true
    wait
    rm -rf "$work"
}
trap finish EXIT
# shellcheck source=tests/need.sh
. "$root/tests/need.sh"
need prometheus curl jq

fail() {
    printf '%s\n' "$@" >&2
    for log in "$work"/*.log; do printf -- '--- %s\n%s\n' "$log" "$(tail -n 20 "$log")"; done >&2
    exit 1
}

# until_ WHAT COMMAND…: waits until a command succeeds.
until_() {
    local what=$1 end=$((SECONDS + 60))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || fail "it never came true that $what"
        sleep 0.2
    done
    echo "$what"
}

# start NAME ARGUMENTS…: a program in the background, with a log of its name.
start() {
    local name=$1
    shift
    # Before the program runs, so that no reader sees the log of an earlier one.
    : >"$work/$name.log"
    "$@" >"$work/$name.log" 2>&1 &
    running[$name]=$!
}

stop() {
    kill "${running[$1]}"
    wait "${running[$1]}" || true
    unset "running[$1]"
}

# The tools' own judgement

promtool check rules "$monitoring/calry-gitops.rules.yaml" >/dev/null
promtool test rules "$monitoring/calry-gitops.rules.test.yaml" >/dev/null
mkdir "$work/fault"
cp "$monitoring/calry-gitops.rules.test.yaml" "$work/fault"
sed 's/in_a_row >= 3/in_a_row >= 9/' "$monitoring/calry-gitops.rules.yaml" >"$work/fault/calry-gitops.rules.yaml"
if promtool test rules "$work/fault/calry-gitops.rules.test.yaml" >/dev/null 2>&1; then fail "a broken rule passes"; fi
echo "every alert fires when it should, and does not when it should not"

start sandbox "$binary" sandbox --listen 127.0.0.1:0
until_ "the sandbox listens" grep -q 'zepl\.sandbox-write\.' "$work/sandbox.log"
CALRY_API_URL=$(grep -oEm1 'http://127\.0\.0\.1:[0-9]+' "$work/sandbox.log" | head -n 1)
CALRY_API_KEY=$(grep -oE 'zepl\.sandbox-write\.[^ '"'"']+' "$work/sandbox.log" | head -n 1)
export CALRY_API_URL CALRY_API_KEY
mkdir "$work/definitions"
printf 'provider: HOSTAWAY\nfieldsToSync:\n  listing: [name]\n' >"$work/definitions/hostaway.yaml"
daemon() {
    start daemon "$binary" run --definitions "$work/definitions" --interval 1s --timeout 1s --listen "$1" \
        --admin-rate 100000
    until_ "a pass went well" grep -Eq 'reconciliation [0-9]+ .* took' "$work/daemon.log"
    address=$(grep -oEm1 'http://127\.0\.0\.1:[0-9]+' <(grep 'listening on http' "$work/daemon.log"))
    address=${address#http://}
}
daemon 127.0.0.1:0

curl -fsS "http://$address/metrics" >"$work/metrics"
said=$(promtool check metrics <"$work/metrics" 2>&1) || fail "promtool has something to say of the metrics:" "$said"
[ -z "$said" ] || fail "promtool has something to say of the metrics:" "$said"
if sed 's/passes_total/passes/' "$work/metrics" | promtool check metrics >/dev/null 2>&1; then fail "bad names pass"; fi
echo "promtool finds nothing in $(grep -c '^# TYPE' "$work/metrics") families"

# A Prometheus

sed -E 's/^( +for:) .*/\1 1s/' "$monitoring/calry-gitops.rules.yaml" >"$work/rules.yaml"
cat >"$work/prometheus.yaml" <<END
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: calry
    static_configs: [{targets: ["$address"]}]
END
start prometheus prometheus --config.file "$work/prometheus.yaml" --storage.tsdb.path "$work/data" \
    --web.listen-address 127.0.0.1:0
listens() {
    prometheus=$(sed -nE 's/.*msg="Listening on".* address=(127\.0\.0\.1:[0-9]+).*/\1/p' "$work/prometheus.log")
    [ -n "$prometheus" ]
}
until_ "Prometheus listens" listens

# ask PATH FILTER [CURL-ARGUMENTS…]: whether something holds of Prometheus' answer.
ask() {
    local path=$1 filter=$2
    shift 2
    curl -sS -G "http://$prometheus/api/v1/$path" "$@" | jq --exit-status "$filter" >/dev/null
}
until_ "it scrapes the daemon" ask targets '.data.activeTargets | length == 1 and all(.health == "up")'
until_ "it can evaluate every rule" ask rules '[.data.groups[].rules[]] | length > 9 and all(.health == "ok")'
until_ "nothing is the matter" ask alerts '.data.alerts == []'

jq -r '.panels[].targets[]?.expr' "$monitoring/calry-gitops.dashboard.json" >"$work/expressions"
while read -r expression; do
    # shellcheck disable=SC2016
    query=$(sed 's/\$workspace/.*/g; s/\$__rate_interval/1m/g' <<<"$expression")
    ask query '.status == "success"' --data-urlencode "query=$query" || fail "the dashboard asks what cannot be asked: $query"
done <"$work/expressions"
echo "it can answer the $(wc -l <"$work/expressions") questions of the dashboard"

# firing ALERT, quiet ALERT: with a sentence in which everything was filled in.
firing() {
    ask alerts "[.data.alerts[] | select(.labels.alertname == \"$1\" and .state == \"firing\")]
        | length > 0 and all(.annotations | .summary + .description | test(\"no value|{{\") | not)"
}
quiet() {
    kill -HUP "${running[daemon]}"
    ask alerts "all(.data.alerts[]; .labels.alertname != \"$1\")"
}
kill -STOP "${running[sandbox]}"
until_ "Calry does not answer, and CalryGitopsReconciliationFailing fires" firing CalryGitopsReconciliationFailing
kill -CONT "${running[sandbox]}"
until_ "it answers again, and CalryGitopsReconciliationFailing is over" quiet CalryGitopsReconciliationFailing

stop daemon
until_ "the daemon is gone, and CalryGitopsDown fires" firing CalryGitopsDown
daemon "$address"
until_ "it is back, and CalryGitopsDown is over" quiet CalryGitopsDown

# A git server that is not there

stop daemon
start daemon "$binary" run --git-url http://127.0.0.1:9/definitions.git --interval 1s --listen "$address" --admin-rate 100000
until_ "the repository cannot be fetched, and CalryGitopsGitFetchFailing fires" firing CalryGitopsGitFetchFailing
curl -fsS "http://$address/metrics" >"$work/metrics"
said=$(promtool check metrics <"$work/metrics" 2>&1) || fail "promtool has something to say of the metrics:" "$said"
[ -z "$said" ] || fail "promtool has something to say of the metrics:" "$said"
grep -q '^calry_gitops_git_failing{.*reason="unreachable"} 1$' "$work/metrics" || fail "no metric names the reason"
echo "promtool finds nothing in the metrics of a repository"
