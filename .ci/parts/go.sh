# shellcheck shell=bash disable=SC2154 # sourced by ../setup, whose names these are
# Go, for the real peers of the tests.

go_version() { (cd / && GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null | sed 's/^go//'); }

find_go() {
    local each found=
    for each in "$(command -v go || true)" /usr/local/go/bin/go /usr/lib/go/bin/go $(printf '%s\n' /usr/lib/go-*/bin/go | sort -rV); do
        [[ -x $each ]] && found=${found:-$each} && at_least "$(go_version "$each")" "$GO" && break
        each=
    done
    if [[ -z $each ]]; then
        if [[ -z $found ]]; then
            install_packages golang-go ca-certificates
            found=$(command -v go)
        fi
        fetch_go "$found"
        each=$fetched
    fi
    in_front "$(dirname "$each")"
    depends_on "$each"
    took Go "$(go_version "$each") ($each)"
}

# Go since 1.21 fetches the toolchain that a module asks for, as a module. An older one can fetch that module, too.
fetch_go() {
    if at_least "$(go_version "$1")" "$GO"; then
        fetched=$1
        return
    fi
    local module arch
    arch=$("$1" env GOARCH)
    module=golang.org/toolchain@v0.0.1-$GO_TOOLCHAIN.linux-$arch
    fetched=$("$1" env GOMODCACHE)/$module/bin/go
    if [[ ! -x $fetched ]]; then
        doing "fetching $GO_TOOLCHAIN by Go $(go_version "$1")"
        (cd / && logged "$1" mod download "$module") || die "Go cannot fetch $module; its output is in $log"
        # The module cache keeps no execute bits; Go itself sets them in just these folders.
        chmod -R u+w,a+x "${fetched%/go}" "${fetched%/bin/go}/pkg/tool"
    fi
}
