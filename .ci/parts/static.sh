# shellcheck shell=bash disable=SC2154 # sourced by ../setup, whose names these are
# Static binaries, and what packs them into images.

readonly static_target=x86_64-unknown-linux-musl

# For programs that need nothing of where they run: in containers and in virtual machines.
find_static() {
    command -v musl-gcc >/dev/null || install_packages musl-tools
    depends_on "$(command -v musl-gcc)"
    local sysroot
    sysroot=$(rustc --print sysroot)
    if [[ ! -d $sysroot/lib/rustlib/$static_target ]]; then
        command -v rustup >/dev/null ||
            die "static binaries need Rust's target $static_target, which no package brings. Install rustup (rust-lang.org/tools/install) and run this again"
        doing "adding $static_target to rustup's toolchain"
        logged rustup target add "$static_target" || die "rustup has no $static_target for this toolchain"
        [[ -d $sysroot/lib/rustlib/$static_target ]] || die "rustup brought no $sysroot/lib/rustlib/$static_target"
    fi
    depends_on "$sysroot/lib/rustlib/$static_target"
    choose FLOWCAR_STATIC_TARGET "$static_target"
    took "static target" "$static_target, linked by $(command -v musl-gcc)"
}

find_packer() {
    local each
    for each in buildah docker; do
        # A docker without its daemon builds nothing.
        if command -v "$each" >/dev/null && "$each" info >/dev/null 2>&1; then break; fi
        each=
    done
    if [[ -z $each ]]; then
        install_packages buildah
        each=buildah
    fi
    depends_on "$(command -v "$each")"
    took "image builder" "$("$each" --version)"
}
