# shellcheck shell=bash disable=SC2154 # sourced by ../setup, whose names these are
# Packages of Debian and Ubuntu.

refreshed=

have_apt() { command -v apt-get >/dev/null; }

may_install() { have_apt && { [[ $EUID == 0 ]] || command -v sudo >/dev/null; }; }

as_root() {
    if [[ $EUID == 0 ]]; then "$@"; else sudo "$@"; fi
}

# How long another's lock is waited for, seconds: a fresh machine installs its updates by itself.
apt_patience=1800

# apt_get WORD ...: apt-get with its output in the log. While another process holds a lock (the lists', the archives', dpkg's) it
# waits, and prints so: apt's own DPkg::Lock::Timeout knows only the last of them.
apt_get() {
    local start holder waited=0
    while :; do
        printf '\n$ apt-get %s\n' "$*" >>"$log"
        start=$(wc -l <"$log")
        as_root env LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get "$@" >>"$log" 2>&1 </dev/null && return
        holder=$(lock_holder "$start") || return 1
        if ((waited >= apt_patience)); then
            took waiting "timed out: $holder still holds a lock of apt's after $((waited / 60)) minutes"
            return 1
        fi
        ((waited % 60)) || took waiting "for a lock of apt's, which $holder holds"
        sleep 5
        ((waited += 5))
    done
}

# Prints the holder of the lock that the log names after this line; fails if it names none.
lock_holder() {
    local line
    line=$(tail -n "+$(($1 + 1))" "$log" | grep -m 1 -e 'Could not get lock' -e 'locked by another process') || return 1
    if [[ $line =~ (process|pid)" "([0-9]+) ]]; then
        echo "process ${BASH_REMATCH[2]} ($(cat "/proc/${BASH_REMATCH[2]}/comm" 2>/dev/null || echo "has exited"))"
    else
        echo "another process"
    fi
}

# Lists are fetched once, and only when something is missing.
refresh() {
    if [[ -n $refreshed ]] || ! may_install; then return 0; fi
    refreshed=yes
    doing "apt-get update"
    # One source that does not answer must not hide the others: the install that follows is the judge.
    apt_get update -qq || true
}

# The version that apt would install of a package; fails if there is none.
candidate() {
    have_apt || return 1
    local version
    version=$(apt-cache policy "$1" | awk '$1 == "Candidate:" { print $2 }')
    [[ -n $version && $version != "(none)" ]] && echo "$version"
}

# Installs packages, and never removes one to do so.
install_packages() {
    refresh
    may_install || die "missing packages, by their Debian names: $*
setup: They cannot be installed from here: $(have_apt && echo "not root, and no sudo" || echo "no apt-get"). Install them and run this again"
    doing "installing $*"
    apt_get install -y --no-install-recommends --no-remove "$@" ||
        { tail -n 40 "$log" >&2 && die "apt-get could not install: $*. Its last lines are above, all of them in $log"; }
}
