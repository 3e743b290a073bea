#!/usr/bin/env bash
# Makes sure that LLaMA-Factory can be run, and says how.
#
# usage: trainer-env.sh DIR
#
# When llamafactory-cli is on PATH, that one is used and nothing is installed. Otherwise DIR becomes a virtual environment
# with the exact packages of the lists beside this script; an environment that is whole already is left as it is, a half
# made or outdated one is made again. Standard output has two lines: the path of llamafactory-cli, and the path of the
# Python that has its packages. Progress and errors go to standard error, the details of the installation to DIR.log.
#
# FETTLE_TORCH    auto (default), cpu, cuda12 or cuda13: which torch. auto looks at the NVIDIA driver.
# FETTLE_PYTHON   the Python to use, 3.11 to 3.13. Default: the first that fits of python3, python3.12, python3.11, python3.13.
# pip's own settings (PIP_INDEX_URL, PIP_CERT, pip.conf …) are honoured.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
started=$SECONDS

die() { # step, what happened, remedy
    printf 'trainer-env: %s: %s: %s\n' "$1" "$2" "$3" >&2
    exit 1
}

say() { printf '%s\n' "$*" >&2; }

# python_of CLI prints the interpreter of a console script, also when pip had to wrap a long or spaced one in /bin/sh.
python_of() {
    local found
    found=$(head -n 3 "$1" | tr -d '\0' | sed -n -e "s/^#! *\(\/[^ ]*python[^ ]*\).*/\1/p" -e "s/^'''exec' \"\([^\"]*\)\".*/\1/p" -e "s/^'''exec' \(\/[^ \"]*\).*/\1/p" | head -n 1)
    if [ -z "$found" ] || [ ! -x "$found" ]; then
        found=$(dirname "$(readlink -f "$1")")/python
    fi
    [ -x "$found" ] || found=python3
    printf '%s\n' "$found"
}

# fits PYTHON says whether it is one that the pinned packages have wheels for.
fits() {
    "$1" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13) and sys.maxsize > 2**32))' >/dev/null 2>&1
}

find_python() {
    local p
    if [ -n "${FETTLE_PYTHON:-}" ]; then
        fits "$FETTLE_PYTHON" || die "find Python" "FETTLE_PYTHON=$FETTLE_PYTHON is not a 64-bit Python 3.11 to 3.13" "name one that is"
        printf '%s\n' "$FETTLE_PYTHON"
        return
    fi
    for p in python3 python3.12 python3.11 python3.13; do
        if command -v "$p" >/dev/null 2>&1 && fits "$p"; then
            command -v "$p"
            return
        fi
    done
    p=$(python3 -c 'import sys; print("only Python %d.%d was found" % sys.version_info[:2])' 2>/dev/null || echo "no python3 was found")
    die "find Python" "$p" "install Python 3.11, 3.12 or 3.13, or name it in FETTLE_PYTHON"
}

# driver prints the major version of the NVIDIA driver, or nothing.
driver() {
    if [ -r /proc/driver/nvidia/version ]; then
        sed -n 's/^NVRM.*[^0-9.]\([0-9][0-9]*\)\.[0-9][0-9.]* .*/\1/p' /proc/driver/nvidia/version | head -n 1
    elif command -v nvidia-smi >/dev/null 2>&1; then
        { timeout 20 nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null || true; } | sed -n '1s/^\([0-9][0-9]*\)\..*/\1/p'
    fi
}

choose_torch() {
    local version
    case "${FETTLE_TORCH:-auto}" in
    cpu | cuda12 | cuda13) printf '%s\n' "$FETTLE_TORCH" ;;
    auto)
        version=$(driver)
        if [ -z "$version" ]; then
            echo cpu
        elif [ "$version" -ge 580 ]; then
            echo cuda13
        elif [ "$version" -ge 525 ]; then
            echo cuda12
        else
            say "trainer-env: the NVIDIA driver $version is older than 525, so training will use the CPU"
            echo cpu
        fi
        ;;
    *) die "read settings" "FETTLE_TORCH=$FETTLE_TORCH is not known" "use auto, cpu, cuda12 or cuda13" ;;
    esac
}

# fingerprint TORCH prints a hash of all that decides what the environment holds.
fingerprint() {
    cat "$here/requirements.txt" "$here/torch-$1.txt" "$here/cuda_placeholders.py" | { echo "$1"; cat; } | sha256sum | cut -d ' ' -f 1
}

# run STEP REMEDY COMMAND… runs the command with its output in the log, and shows that time passes. A function given as
# COMMAND must end in exec, so that an interrupt reaches the program.
run() {
    local step=$1 remedy=$2 at=$SECONDS shown='' pid rc=0
    shift 2
    printf '\n== %s\n' "$step" >>"$log"
    "$@" >>"$log" 2>&1 &
    pid=$!
    # An interrupt must not leave the command behind.
    trap 'kill "$pid" 2>/dev/null; exit 130' INT TERM
    if [ -t 2 ]; then
        while kill -0 "$pid" 2>/dev/null; do
            shown=$(tail -c 4096 "$log" | awk '
                /^== / { s = "" }
                /^ *Downloading / { n = $2; sub(/-(cp|py)[0-9].*/, "", n); s = n " " $3 " " $4 }
                /^Installing collected/ { s = "unpacking" }
                END { print s }')
            printf '\r\033[K  %-10s %3d s  %.60s' "$step" $((SECONDS - at)) "$shown" >&2
            sleep 0.5
        done
        printf '\r\033[K' >&2
    else
        say "  $step ..."
    fi
    wait "$pid" || rc=$?
    trap - INT TERM
    if [ "$rc" -ne 0 ]; then
        shown=$(grep -aE '^ *(ERROR|[A-Za-z.]*Error)\b' "$log" | tail -n 1 | cut -c 1-300)
        die "$step" "${shown:-exit code $rc}" "$remedy (details: $log)"
    fi
    say "$(printf '  %-10s %3d s' "$step" $((SECONDS - at)))"
}

# pip_install ARGUMENTS… installs into the environment, whatever the user's pip settings say about other places.
pip_install() {
    exec env -u PIP_TARGET -u PIP_PREFIX -u PIP_ROOT -u PYTHONPATH -u PYTHONHOME PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 TMPDIR="$dir/tmp" \
        "${pip[@]}" install --no-input --disable-pip-version-check --no-cache-dir --no-compile --only-binary :all: --no-deps "$@"
}

# check TORCH imports what a training run imports and takes one step with torch.
check() {
    exec env -u PYTHONPATH -u PYTHONHOME HF_HUB_OFFLINE=1 PYTHONNOUSERSITE=1 "$dir/bin/python" - "$1" <<'PY'
import sys, torch
# All that a run imports, so that the first one need not compile it.
import llamafactory.train.tuner, llamafactory.launcher
import bitsandbytes, matplotlib.pyplot, transformers.models.qwen3.modeling_qwen3
layer = torch.nn.Linear(32, 32)
layer(torch.randn(8, 32)).sum().backward()
if not layer.weight.grad.isfinite().all():
    sys.exit("Error: torch computes wrongly on this machine")
if sys.argv[1] != "cpu" and not torch.cuda.is_available():
    print("WARNING: torch sees no GPU, so training will use the CPU")
PY
}

[ $# -eq 1 ] || { say "usage: trainer-env.sh DIR"; exit 2; }
case "$1" in
/*) dir=$1 ;;
?*) dir=$PWD/$1 ;;
*) say "usage: trainer-env.sh DIR"; exit 2 ;;
esac
log=$dir.log
stamp=$dir/.fettle-complete

if cli=$(command -v llamafactory-cli); then
    say "trainer: $cli (found on PATH)"
    printf '%s\n%s\n' "$cli" "$(python_of "$cli")"
    exit 0
fi

torch=$(choose_torch)
want=$(fingerprint "$torch")
whole() { [ -r "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && [ -x "$dir/bin/python" ] && [ -x "$dir/bin/llamafactory-cli" ]; }
answer() { printf '%s\n%s\n' "$dir/bin/llamafactory-cli" "$dir/bin/python"; }

if whole; then
    say "trainer: $dir/bin/llamafactory-cli (installed earlier)"
    answer
    exit 0
fi

python=$(find_python)
mkdir -p "$(dirname "$dir")" 2>/dev/null || die "make folder" "cannot make $(dirname "$dir")" "choose a place that you may write to"

# Two at once would tear each other's files.
if command -v flock >/dev/null 2>&1; then
    { : >>"$dir.lock"; } 2>/dev/null || die "lock" "cannot write $dir.lock" "choose a place that you may write to"
    exec 9>>"$dir.lock"
    if ! flock -n 9; then
        say "trainer: another one is installing into $dir; waiting for it"
        flock 9
        if whole; then
            answer
            exit 0
        fi
    fi
fi

if [ -e "$dir" ] && [ ! -f "$dir/pyvenv.cfg" ] && [ -n "$(ls -A "$dir")" ]; then
    die "make folder" "$dir is there and is not a virtual environment" "move it away, or give another folder"
fi
case $torch in
cpu) need=3 size="0.7 GB to download, 2 GB on disk" ;;
*) need=9 size="3 GB to download, 6 GB on disk" ;;
esac
free=$(df -Pk "$(dirname "$dir")" | awk 'NR == 2 { print int($4 / 1048576) }')
if [ -n "$free" ] && [ "$free" -lt "$need" ]; then
    die "check disk" "$(dirname "$dir") has $free GB free and $need GB are needed" "make room, or give a folder on another disk"
fi

say "trainer: installing LLaMA-Factory into $dir ($size; once)"
[ "$torch" = cpu ] && say "  no usable NVIDIA driver here, so torch is set up for the CPU"
rm -rf "$dir"
{ : >"$log"; } 2>/dev/null || die "make folder" "cannot write $log" "choose a place that you may write to"

if "$python" -c 'import ensurepip' >/dev/null 2>&1; then
    run venv "install Python's venv module (on Debian and Ubuntu: the package python3-venv)" "$python" -m venv "$dir"
    pip=("$dir/bin/python" -m pip)
elif "$python" -m pip --python "$python" --version >/dev/null 2>&1; then
    run venv "install Python's venv module (on Debian and Ubuntu: the package python3-venv)" "$python" -m venv --without-pip "$dir"
    pip=("$python" -m pip --python "$dir/bin/python")
else
    die venv "$python has neither ensurepip nor pip" "install them (on Debian and Ubuntu: the package python3-venv)"
fi
mkdir "$dir/tmp"
site=$("$dir/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')

network="see that pip reaches a package index and run this again"
run torch "$network" pip_install -r "$here/torch-$torch.txt"
run trainer "$network" pip_install -r "$here/requirements.txt"
if [ "$torch" = cpu ]; then
    run slim "set FETTLE_TORCH=cuda13 and run this again" "$dir/bin/python" "$here/cuda_placeholders.py" "$site"
fi
run check "set FETTLE_TORCH=cuda13 and run this again" check "$torch"
grep -a '^WARNING: torch sees' "$log" >&2 || true
rm -rf "$dir/tmp"
printf '%s\n' "$want" >"$stamp.new"
mv "$stamp.new" "$stamp"
say "trainer: ready after $((SECONDS - started)) s"
answer
