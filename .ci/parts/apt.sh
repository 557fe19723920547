# shellcheck shell=bash disable=SC2154 # sourced by ../setup, whose names these are
# Packages of Debian and Ubuntu.

refreshed=

have_apt() { command -v apt-get >/dev/null; }

may_install() { have_apt && { [[ $EUID == 0 ]] || command -v sudo >/dev/null; }; }

as_root() {
    if [[ $EUID == 0 ]]; then "$@"; else sudo "$@"; fi
}

# Lists are fetched once, and only when something is missing.
refresh() {
    if [[ -n $refreshed ]] || ! may_install; then return 0; fi
    refreshed=yes
    doing "apt-get update"
    # One source that does not answer must not hide the others: the install that follows is the judge.
    as_root apt-get update -qq >>"$log" 2>&1 || true
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
    logged as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends --no-remove "$@" ||
        die "apt-get could not install: $*. Its last words are above, all of them in $log"
}
