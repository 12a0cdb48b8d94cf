# Functions of the download scripts, which source this file. For bash 3.2 and newer.
# A script defines usage(), sources this file, calls parse_args, prints license and size,
# and calls download.
# shellcheck shell=bash

export SCRIPT="${0##*/}"
HERE="$(CDPATH='' cd -- "${BASH_SOURCE[0]%/*}" && pwd)"

fail() {
    printf '%s: error: %s\n' "$SCRIPT" "$1" >&2
    exit "${2:-1}"
}

settings() {
    cat <<'END'

Complete files in DIR are not downloaded again; the next run continues FILE.part. No other file is
changed or deleted. Ctrl-C stops the script at any time.

The exit status is 0 if there is music, even if some links were broken (each is named). It is 1 if
there is no music, if a page has changed, or if the site stopped answering (then run it again).

Settings, from the environment:
  BASE_URL  another address with the same layout
  DELAY     seconds to wait before each request (1)
  TRIES     how many times to try a file while the site has errors (5)
  BACKOFF   seconds to wait before the second try, doubled before each further try (2)
  MAX_MB    the largest file to download, in megabytes
  MIN_SPEED bytes per second that a site must send after the first minute of a file (2000)
  MAX_UNPACKED_MB  the most that an archive may have when it is unpacked, in megabytes (4000)
END
}

# parse_args MAX [-h] [--] DIR [...]: checks the arguments and sets DIR; at most MAX follow DIR.
parse_args() {
    local max_args="$1"
    shift
    case "${1-}" in
        -h | --help) usage; settings; exit 0 ;;
        --) shift ;;
        -*) fail "unknown option $1 (for a folder of that name, write ./$1); see -h" 2 ;;
    esac
    [ -n "${1-}" ] || fail "give the folder to download into; see -h" 2
    [ "$#" -le "$((max_args + 1))" ] || fail "too many arguments after $1: $2 (quote a name with spaces)" 2
    case "$1" in -*) DIR="./$1" ;; *) DIR="$1" ;; esac
    case "${BASE_URL:-http://x}" in
        http://?* | https://?*) BASE_URL="${BASE_URL:-}" && BASE_URL="${BASE_URL%/}" ;;
        *) fail "BASE_URL is '$BASE_URL', it must start with http:// or https://" 2 ;;
    esac
    command -v python3 >/dev/null || fail "python3 is needed"
}

# download ...: runs download.py, without the user's Python settings and packages.
download() {
    exec python3 -E -s -S -B -X utf8 "$HERE/download.py" "$@"
}
