# shellcheck shell=bash disable=SC2154 # sourced by ../setup, whose names these are
# Packages of Debian and Ubuntu.

refreshed=

as_root() {
    if [[ $EUID == 0 ]]; then "$@"; else sudo "$@"; fi
}

# Why packages cannot be installed here; fails if they can.
no_apt() {
    if ! command -v apt-get >/dev/null; then
        echo "this is neither Debian nor Ubuntu"
    elif [[ $EUID != 0 ]] && ! command -v sudo >/dev/null; then
        echo "not root, and no sudo"
    else
        return 1
    fi
}

# Lists are fetched once, and only when something is missing.
refresh() {
    [[ -z $refreshed ]] || return 0
    refreshed=yes
    doing "apt-get update"
    # One source that does not answer must not hide the others: the install that follows is the judge.
    as_root apt-get update -qq >>"$log" 2>&1 || true
}

# The version that apt would install of a package; fails if there is none.
candidate() {
    local version
    no_apt >/dev/null && return 1
    refresh
    version=$(apt-cache policy "$1" | awk '$1 == "Candidate:" { print $2 }')
    [[ -n $version && $version != "(none)" ]] && echo "$version"
}

# Installs packages, and never removes one to do so.
install_packages() {
    local why
    if why=$(no_apt); then
        die "missing packages (by their Debian names): $*; they cannot be installed here: $why. Install them and run this again"
    fi
    refresh
    doing "installing $*"
    logged as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends --no-remove "$@" ||
        die "apt-get could not install: $*. Its last words are above, all of them in $log"
}
