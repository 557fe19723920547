# shellcheck shell=bash disable=SC2154 # sourced by ../setup, whose names these are
# rustfmt, and clippy for both compilers.

find_lint() {
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || add_lint
    $FLOWCAR_BPF_CARGO clippy --version >/dev/null 2>&1 ||
        logged rustup component add clippy --toolchain "$FLOWCAR_BPF_TOOLCHAIN" ||
        die "no clippy for the kernel programs' compiler"
    took rustfmt "$(cargo fmt --version)"
    took clippy "$(cargo clippy --version), for the kernel programs $($FLOWCAR_BPF_CARGO clippy --version)"
}

add_lint() {
    if [[ $(command -v cargo) -ef $(command -v rustup) ]]; then
        doing "adding rustfmt and clippy to rustup's toolchain"
        logged rustup component add rustfmt clippy || die "rustup has no rustfmt or clippy for this toolchain"
    else
        # rustc-web: rustfmt-web and rust-web-clippy; rustc-1.95: rustfmt-1.95 and rust-1.95-clippy.
        local owner
        owner=$(rust_source_package)
        owner=${owner%-src}
        install_packages "${owner/rust/rustfmt}" "$owner-clippy"
    fi
}
