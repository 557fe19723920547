# shellcheck shell=bash disable=SC2154 # sourced by ../setup, whose names these are
# Virtual machines: an emulator and what fills their file systems.

# program:package
emulation=(qemu-system-x86_64:qemu-system-x86 busybox:busybox-static depmod:kmod cpio:cpio xz:xz-utils dpkg-deb:dpkg)

find_vm() {
    local each missing=()
    for each in "${emulation[@]}"; do
        command -v "${each%:*}" >/dev/null || missing+=("${each#*:}")
    done
    # Debian's busybox package without "-static" needs a C library that the initramfs has not.
    ! ldd "$(command -v busybox)" >/dev/null 2>&1 || missing+=(busybox-static)
    [[ ${#missing[@]} == 0 ]] || install_packages "${missing[@]}"
    for each in "${emulation[@]}"; do
        depends_on "$(command -v "${each%:*}")"
    done
    took emulation "$(qemu-system-x86_64 --version | head -n 1), $(busybox | head -n 1 | cut -d ' ' -f 1-2)"
}

# program:package
debian=(mmdebstrap:mmdebstrap mkfs.ext4:e2fsprogs)

# For a virtual machine that is a whole Debian.
find_debian() {
    local each missing=()
    for each in "${debian[@]}"; do
        command -v "${each%:*}" >/dev/null || missing+=("${each#*:}")
    done
    [[ ${#missing[@]} == 0 ]] || install_packages "${missing[@]}"
    for each in "${debian[@]}"; do
        depends_on "$(command -v "${each%:*}")"
    done
    took "file systems" "${debian[*]%:*}"
}
