# shellcheck shell=bash disable=SC2154 # sourced by ../setup, whose names these are
# What builds the fuzz targets: cargo-fuzz, for the compiler that builds the kernel programs.

find_fuzz() {
    local built=$tools/cargo-fuzz-$CARGO_FUZZ each
    for each in "$cargo_home/bin/cargo-fuzz" "$built/bin/cargo-fuzz"; do
        if [[ -x $each ]]; then break; fi
    done
    if [[ ! -x $each ]]; then
        doing "building cargo-fuzz $CARGO_FUZZ"
        logged cargo install cargo-fuzz --version "$CARGO_FUZZ" --locked --root "$built" ||
            die "cargo-fuzz does not build; its last lines are above, all of them in $log"
    fi
    command -v c++ >/dev/null || install_packages g++
    in_front "$(dirname "$each")"
    depends_on "$each"
    took cargo-fuzz "$each"
}
