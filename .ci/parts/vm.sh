# shellcheck shell=bash disable=SC2154 # sourced by ../setup, whose names these are
# Virtual machines: an emulator and what fills their file systems.

find_vm() {
    # Debian's busybox package without "-static" needs a C library that the initramfs has not.
    ! ldd "$(command -v busybox)" >/dev/null 2>&1 || install_packages busybox-static
    needs emulation qemu-system-x86_64:qemu-system-x86 busybox:busybox-static depmod:kmod cpio:cpio xz:xz-utils dpkg-deb:dpkg
}

# For a kernel that no package brings.
find_kernel_build() {
    [[ -f /usr/include/libelf.h ]] || install_packages libelf-dev
    depends_on /usr/include/libelf.h
    needs "kernel build" make flex bison bc:bc
}

# For a virtual machine that is a whole Debian.
find_debian() { needs "file systems" mmdebstrap:mmdebstrap mkfs.ext4:e2fsprogs; }
