# shellcheck shell=bash disable=SC2154 # sourced by ../setup, whose names these are
# What the tests run besides flowcar and its peers.

# program:package
runtime=(curl:curl ip:iproute2 nft:nftables tcpdump:tcpdump)

find_runtime() {
    local each missing=()
    # Administrators' programs are not in everyone's PATH.
    in_front /usr/sbin
    for each in "${runtime[@]}"; do
        command -v "${each%:*}" >/dev/null || missing+=("${each#*:}")
    done
    [[ ${#missing[@]} == 0 ]] || install_packages "${missing[@]}"
    for each in "${runtime[@]}"; do
        depends_on "$(command -v "${each%:*}")"
    done
    took tools "${runtime[*]%:*}"
}
