# Sourced by the two scripts that set a machine up for themselves, `tests/run.sh` and `examples/demo.sh`:
#
#     missing R r-base-dev      notes that the Debian package has to be installed if the command is not there
#     install_missing           installs what was noted; fails with a sentence if it cannot

wanted=

missing() {
    command -v "$1" >/dev/null 2>&1 || wanted="$wanted $2"
}

install_missing() {
    [ -n "$wanted" ] || return 0
    # The same package may bring several commands.
    wanted=$(printf '%s\n' $wanted | sort -u | tr '\n' ' ')
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "this is neither Debian nor Ubuntu: please install what these packages are called here: $wanted" >&2
        return 1
    fi
    as_root=
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null 2>&1; then
            echo "not root, and there is no sudo: please have these packages installed: $wanted" >&2
            return 1
        fi
        as_root=sudo
    fi
    echo "installing: $wanted"
    $as_root apt-get update -qq &&
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted >/dev/null
}

need_r() {
    for command in R c++ gfortran make; do
        missing "$command" r-base-dev
    done
}
