# shellcheck shell=bash disable=SC2154 # sourced by ../setup, whose names these are
# The C compiler, and Rust for the userspace crates.

links_c() { echo 'int main(void) { return 0; }' | cc -x c -o /dev/null - 2>/dev/null; }

find_compiler() {
    links_c || install_packages gcc libc6-dev
    links_c || die "cc does not link a C program; see the errors of \`cc hello.c\`"
    took "C compiler" "$(cc --version | head -n 1)"
    depends_on "$(command -v cc)"
}

# Prints the release of the rustc that a command starts; fails if there is none, or one that is too old.
new_enough() {
    local release
    release=$(cd / && "$@" --version 2>/dev/null </dev/null | awk '{ print $2 }')
    [[ -n $release ]] && at_least "${release%%-*}" "$RUST" && echo "$release"
}

have_rust() { command -v cargo >/dev/null && new_enough rustc >/dev/null; }

find_rust() {
    [[ ! -x $cargo_home/bin/cargo ]] || in_front "$cargo_home/bin"
    # The node's tests run programs that `make image` built, and build none that is shipped.
    if [[ $what == image ]]; then
        use_pinned ||
            die "no Rust $RUST_IMAGE of rustup's, and images take no other compiler. Install rustup (rust-lang.org/tools/install) and run this again"
    else
        have_rust || use_rustup || use_versioned_rust || install_rust || install_rustup ||
            die "no Rust since $RUST is here or among apt's packages. Install rustup (rust-lang.org/tools/install) and run this again"
    fi
    took Rust "$(new_enough rustc) by $(command -v cargo)${RUSTUP_TOOLCHAIN:+, toolchain $RUSTUP_TOOLCHAIN}"
    depends_on "$(command -v cargo)" "$(command -v rustc)"
}

# Whether a command starts the pinned rustc.
is_pinned() {
    local version
    version=$(cd / && "$@" --version 2>/dev/null </dev/null) || return 1
    pinned_rustc "$version"
}

# Whether the pinned rustc prints this as its version. What distributions build from the same sources says so behind the date.
pinned_rustc() { [[ $1 =~ ^rustc\ ${RUST_IMAGE//./\\.}\ \([0-9a-f]+\ [0-9-]+\)$ ]]; }

use_pinned() {
    if is_pinned rustc; then return; fi
    find_rustup || return 1
    if ! is_pinned rustup run "$RUST_IMAGE" rustc; then
        doing "installing Rust $RUST_IMAGE by rustup"
        logged rustup toolchain install "$RUST_IMAGE" --profile minimal || return 1
    fi
    choose RUSTUP_TOOLCHAIN "$RUST_IMAGE"
}

# A toolchain that rustup has but that is not its default one, or a new one.
use_rustup() {
    command -v rustup >/dev/null || return 1
    local each
    while read -r each _; do
        case $each in nightly* | beta*) continue ;; esac
        if new_enough rustup run "$each" rustc >/dev/null; then
            choose RUSTUP_TOOLCHAIN "$each"
            return
        fi
    done < <(rustup toolchain list 2>/dev/null)
    doing "installing Rust $RUST by rustup"
    logged rustup toolchain install "$RUST" --profile minimal || return 1
    choose RUSTUP_TOOLCHAIN "$RUST"
}

# Ubuntu keeps newer compilers beside the default one, each in a folder of its own.
use_versioned_rust() {
    local bin
    for bin in $(printf '%s\n' /usr/lib/rust-*/bin | sort -rV); do
        if [[ -x $bin/cargo ]] && new_enough "$bin/rustc" >/dev/null; then
            in_front "$bin"
            return
        fi
    done
    return 1
}

# The distribution's packages of a Rust that is new enough; fails if it has none.
rust_packages() {
    local each version
    # rustc-web is what Debian's stable releases build current browsers with.
    for each in rustc rustc-web $(apt-cache search -n '^rustc-1\.[0-9]+$' | awk '{ print $1 }' | sort -rV); do
        version=$(candidate "$each") || continue
        if at_least "${version%%[+~-]*}" "$RUST"; then
            echo "$each ${each/rustc/cargo}"
            return
        fi
    done
    return 1
}

install_rust() {
    have_apt || return 1
    refresh
    local packages
    read -r -a packages < <(rust_packages) || return 1
    install_packages "${packages[@]}"
    have_rust || use_versioned_rust
}

# Where the distribution's compilers are old, it may have rustup.
install_rustup() {
    find_rustup || return 1
    use_rustup
}

find_rustup() {
    if command -v rustup >/dev/null; then return; fi
    have_apt || return 1
    refresh
    candidate rustup >/dev/null || return 1
    install_packages rustup
}
