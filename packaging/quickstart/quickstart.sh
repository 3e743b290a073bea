#!/usr/bin/env bash
# A cluster on this machine and a real fine-tuning job through it: three controllers, a node, two jobs of different
# priority, LLaMA-Factory as the trainer. Everything lives under the user's state directory; a second run reuses it.
#
# usage: quickstart.sh [--dir DIR]
#
# --dir DIR   keep everything under DIR instead of $XDG_STATE_HOME/fettle (default ~/.local/state/fettle)

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$(cd "$here/../../bin" && pwd)
state=${XDG_STATE_HOME:-$HOME/.local/state}/fettle
while [ $# -gt 0 ]; do
    case $1 in
    --dir) state=$2; shift 2 ;;
    *) echo "quickstart: unknown argument $1; usage: quickstart.sh [--dir DIR]" >&2; exit 2 ;;
    esac
done
work=$state/quickstart
log=$work/quickstart.log
started=$SECONDS
step_no=0
step_name=
mkdir -p "$work"
: >"$log"

bold= dim= plain=
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; fi

step() {
    step_no=$((step_no + 1))
    step_name=$1
    printf '\n%s[%d/6] %s%s\n' "$bold" "$step_no" "$step_name" "$plain"
}
note() { printf '      %s\n' "$*"; }
show() { printf '%s    $ %s%s\n' "$dim" "$*" "$plain"; }
failed() {
    code=$?
    printf '\nquickstart: step %d failed: %s (exit %d)\n' "$step_no" "$step_name" "$code" >&2
    [ -s "$log" ] && { printf 'quickstart: the last lines of %s:\n' "$log" >&2; tail -n 5 "$log" >&2; }
    case $step_no in
    1) remedy="read the message above, then run make quickstart again: what is done is not done twice" ;;
    2) remedy="remove $work/venv and run make quickstart again" ;;
    3) remedy="look at the daemons' logs: $bin/fettle status --dir $state; start afresh with $bin/fettle down --dir $state --force" ;;
    *) remedy="look at the job: $bin/fqueue --all; $bin/flog JOBID" ;;
    esac
    printf 'quickstart: what to do: %s\n' "$remedy" >&2
    exit 1
}
trap failed ERR

step "The trainer: LLaMA-Factory"
mapfile -t trainer < <("$here/trainer-env.sh" "$work/venv")
[ "${#trainer[@]}" -eq 2 ] || { false; }
engine=${trainer[0]} python=${trainer[1]}
note "$engine"

step "A tiny model with random weights, and a small data set"
mkdir -p "$work/run"
cp -R "$here/data" "$here"/*.yaml "$work/run/"
if [ -e "$work/run/tiny-model/config.json" ]; then
    note "there already: $work/run/tiny-model"
else
    "$python" "$here/tiny_model.py" "$work/run/tiny-model" >>"$log" 2>&1
    note "$work/run/tiny-model"
fi

step "Three controllers and a node on this machine"
gpus=()
command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 || gpus=(--gpus 1)
show fettle up --controllers 3 --nodes 1 "${gpus[@]}"
"$bin/fettle" up --dir "$state" --controllers 3 --nodes 1 "${gpus[@]}" --engine "$engine"
export FETTLE_STATE_DIR=$state

step "Two jobs: an urgent one and one for the back of the queue"
# Every run of the quickstart trains from the start, into a folder of its own.
out=$work/run/output/$(date +%Y%m%d-%H%M%S)
mkdir -p "$out"
cd "$work/run"
# The low-priority job of an earlier quickstart may still wait or run: two new ones take its place.
"$bin/fcancel" --yes --name whenever >/dev/null
show fsubmit train_lora.yaml --priority 1 --gpus 1
urgent=$("$bin/fsubmit" train_lora.yaml --priority 1 --gpus 1 --name urgent --parsable --output "$out/urgent.log" --set "output_dir=$out/urgent")
show fsubmit train_low.yaml --priority 9 --gpus 1
low=$("$bin/fsubmit" train_low.yaml --priority 9 --gpus 1 --name whenever --parsable --output "$out/low.log" --set "output_dir=$out/low")
note "jobs $urgent and $low"
"$bin/fqueue"

step "The urgent job, from its start to its end"
show flog --follow --progress "$urgent"
"$bin/flog" --follow --progress "$urgent"

step "What came out of it"
show flog --stats "$urgent"
"$bin/flog" --stats "$urgent"
adapter=$out/urgent/adapter_model.safetensors
[ -s "$adapter" ] || { echo "no adapter at $adapter" >>"$log"; false; }
note "adapter: $adapter ($(wc -c <"$adapter") bytes)"
"$bin/fqueue" --all

leader=$("$bin/fctl" raft list --json | "$python" -c '
import json, sys
print(next((s["name"] for s in json.load(sys.stdin)["servers"] if s.get("leader")), "c1"))')
cat <<TEXT

${bold}Done in $((SECONDS - started)) s.${plain} The cluster is still up and job $low is next. Things to try:

  export PATH=$bin:\$PATH
  fqueue --watch                       the queue, live
  $(printf '%-36s' "flog -f $low") the other job's log
  fettle status                        the daemons and their process ids
  $(printf '%-36s' "kill -9 \$(fettle status --pid $leader)") kill the leader while it trains, then look at fqueue again
  fettle up                            starts what is missing
  fettle down                          ends everything
TEXT
