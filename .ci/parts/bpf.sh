# shellcheck shell=bash disable=SC2154 # sourced by ../setup, whose names these are
# What builds the kernel programs: a compiler that may build `core` for the BPF target, and bpf-linker.

find_bpf() {
    use_nightly || without_nightly
    find_linker
}

# What is shipped is built by the pinned compiler alone.
without_nightly() {
    case $what in
    image | node) die "no $NIGHTLY of rustup's, and images take no other compiler for the kernel programs. Install rustup (rust-lang.org/tools/install) and run this again" ;;
    *) use_distribution ;;
    esac
}

llvm_of() { "$@" -vV | awk '/^LLVM version:/ { split($3, part, "."); print part[1] }'; }

# The LLVMs that the pinned bpf-linker can be built with.
linkable() { (("$1" >= 21 && "$1" <= 23)); }

# A nightly of rustup's, and its own LLVM for the linker.
use_nightly() {
    command -v rustup >/dev/null || return 1
    local each
    for each in "$NIGHTLY" nightly; do
        if nightly_serves "$each" && take_nightly "$each"; then return; fi
    done
    doing "installing $NIGHTLY by rustup"
    logged rustup toolchain install "$NIGHTLY" --profile minimal && take_nightly "$NIGHTLY"
}

# It runs and, for images, is the pinned one.
nightly_serves() {
    local version
    version=$(rustup run "$1" rustc --version 2>/dev/null) || return 1
    case $what in
    image | node) pinned_nightly "$version" ;;
    esac
}

# Whether the pinned nightly prints this as its version: a nightly is named by the day after its last commit's.
pinned_nightly() { [[ $1 == *"-nightly ("*" $(date -u -d "${NIGHTLY#nightly-} -1 day" +%F))" ]]; }

take_nightly() {
    linkable "$(llvm_of rustup run "$1" rustc)" || return 1
    local sysroot
    sysroot=$(rustup run "$1" rustc --print sysroot)
    if [[ ! -d $sysroot/lib/rustlib/src/rust/library/core ]]; then
        doing "adding rust-src to $1"
        logged rustup component add rust-src --toolchain "$1" || return 1
    fi
    bpf_rustc=(rustup run "$1" rustc)
    bpf_llvm=$(llvm_of "${bpf_rustc[@]}")
    choose FLOWCAR_BPF_TOOLCHAIN "$1"
    # How to start the cargo that checks the kernel programs.
    choose FLOWCAR_BPF_CARGO "rustup run $1 cargo"
    depends_on "$sysroot/lib/rustlib/src/rust/library/core"
    took "BPF compiler" "$("${bpf_rustc[@]}" --version), rustup's $1, with rust-src"
}

# PATH without the folders that hold rustup, as sidecar/build.rs has it.
path_without_rustup() {
    local each rest=
    while read -r -d : each; do
        [[ -x $each/rustup ]] || rest+=${rest:+:}$each
    done <<<"$PATH:"
    echo "$rest"
}

# The distribution's compiler, whose unstable features are unlocked for the kernel programs alone.
use_distribution() {
    local sysroot
    if ! PATH=$(path_without_rustup) have_rust; then
        install_rust || die "no compiler for the kernel programs: rustup brought no nightly with rust-src, and apt has no Rust since $RUST"
    fi
    bpf_rustc=(env "PATH=$(path_without_rustup)" rustc)
    bpf_llvm=$(llvm_of "${bpf_rustc[@]}")
    linkable "$bpf_llvm" || die "the distribution's rustc has LLVM $bpf_llvm, which bpf-linker $BPF_LINKER does not know. Install rustup (rust-lang.org/tools/install) and run this again"
    sysroot=$("${bpf_rustc[@]}" --print sysroot)
    [[ -d $sysroot/lib/rustlib/src/rust/library/core ]] || install_packages "$(rust_source_package)"
    [[ -d $sysroot/lib/rustlib/src/rust/library/core ]] || die "$(rust_source_package) brought no $sysroot/lib/rustlib/src/rust"
    choose FLOWCAR_BPF_TOOLCHAIN system
    choose FLOWCAR_BPF_CARGO "env RUSTC_BOOTSTRAP=1 PATH=$(path_without_rustup) cargo"
    depends_on "$sysroot/lib/rustlib/src/rust/library/core"
    took "BPF compiler" "$("${bpf_rustc[@]}" --version), the distribution's, with the sources of core"
}

# rustc-web's sources are rust-web-src, rustc-1.95's are rust-1.95-src.
rust_source_package() {
    local owner
    owner=$(dpkg-query -S "$(readlink -f "$(PATH=$(path_without_rustup) command -v rustc)")" | cut -d : -f 1)
    echo "${owner/rustc/rust}-src"
}

find_linker() {
    local built each llvm
    # A folder for each compiler: its LLVM is part of what is built.
    built=$tools/bpf-linker-$BPF_LINKER-for-$("${bpf_rustc[@]}" --version | awk '{ print $2 }')
    for each in "$(command -v bpf-linker || true)" "$cargo_home/bin/bpf-linker" "$built/bin/bpf-linker"; do
        if linker_fits "$each" && comes_first "$each"; then break; fi
        each=
    done
    if [[ -z $each ]]; then
        build_linker "$built"
        each=$built/bin/bpf-linker
        linker_fits "$each" || die "the bpf-linker that was just built does not run: $each"
    fi
    in_front "$(dirname "$each")"
    depends_on "$each"
    ! llvm=$(linked_llvm "$each") || depends_on "$llvm"
    took bpf-linker "$("$each" --version | awk '{ print $2 }') ($each)"
}

# The shared LLVM that a program runs with; fails if it has none of its own choosing.
linked_llvm() { ldd "$1" 2>/dev/null | awk '/libLLVM/ { print $3 }' | grep .; }

# Whether it is the first in PATH, once its folder is there: another version may be before it.
comes_first() { [[ $(in_front "$(dirname "$1")" && command -v bpf-linker) == "$1" ]]; }

# It runs, is the pinned one (for tests also a newer one), and its LLVM (seen where it is linked dynamically) is not older than the
# compiler's.
linker_fits() {
    [[ -x $1 ]] || return 1
    local version llvm
    version=$("$1" --version 2>/dev/null | awk '{ print $2 }')
    [[ -n $version ]] || return 1
    case $what in
    image | node) [[ $version == "$BPF_LINKER" ]] || return 1 ;;
    *) at_least "$version" "$BPF_LINKER" || return 1 ;;
    esac
    llvm=$(linked_llvm "$1" | sed -E 's/.*libLLVM[.-](so\.)?([0-9]+).*/\2/')
    [[ -z $llvm ]] || ((llvm >= bpf_llvm))
}

build_linker() {
    local into=$1 prefix=/usr/lib/llvm-$bpf_llvm libs work
    work=$(mktemp -d)
    if [[ $FLOWCAR_BPF_TOOLCHAIN == system ]]; then
        install_packages "llvm-$bpf_llvm-dev" libzstd-dev zlib1g-dev
        libs=$prefix/lib
    else
        libs=$("${bpf_rustc[@]}" --print sysroot)/lib
        prefix=$work/llvm
        mkdir -p "$prefix/lib"
        ln -s "$libs"/libLLVM.so.* "$prefix/lib/libLLVM.so"
    fi
    doing "building bpf-linker $BPF_LINKER with LLVM $bpf_llvm (some minutes)"
    logged env LLVM_PREFIX="$prefix" RUSTFLAGS="-Clink-arg=-Wl,-rpath,$libs" CARGO_TARGET_DIR="$work/target" \
        CARGO_PROFILE_RELEASE_DEBUG=0 \
        cargo install bpf-linker --version "$BPF_LINKER" --locked --no-default-features \
        --features "llvm-$bpf_llvm" --root "$into" ||
        die "bpf-linker does not build; its last lines are above, all of them in $log"
    rm -rf "$work"
}
