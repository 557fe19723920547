# shellcheck shell=bash disable=SC2154 # sourced by ../setup, whose names these are
# What the tests run besides flowcar and its peers.

find_runtime() {
    # Administrators' programs are not in everyone's PATH.
    in_front /usr/sbin
    needs tools curl:curl ip:iproute2 nft:nftables tcpdump:tcpdump musl-gcc:musl-tools
}
