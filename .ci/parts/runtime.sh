# shellcheck shell=bash disable=SC2154 # sourced by ../setup, whose names these are
# What the tests run besides flowcar and its peers.

find_runtime() {
    # Administrators' programs are not in everyone's PATH.
    in_front /usr/sbin
    needs tools curl:curl ip:iproute2 nft:nftables tcpdump:tcpdump musl-gcc:musl-tools
}

# A real browser, for the page of `flowcar run --report`. Ubuntu has none as a package: there its tests are skipped.
find_browser() {
    if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
        refresh
        if have_apt && ! candidate chromium-driver >/dev/null; then
            took browser "none: there is no package chromium-driver, and tests that need it are skipped"
            return
        fi
    fi
    needs browser chromium:chromium chromedriver:chromium-driver
}

# Counts instructions, for tests/tests/costs.
find_profiler() { needs profiler valgrind:valgrind; }
