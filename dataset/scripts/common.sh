# What the download scripts share; sourced by them. Works with bash 3.2 and newer.
# A script defines usage(), sources this file, calls begin "$@", prints license and size,
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

Whole files in DIR are not downloaded again; FILE.part is continued by the next run. No other file is
changed or deleted. Ctrl-C stops it at any time.

The exit status is 0 if there is music, even if single links were broken (each is named). It is 1
if there is none, if a page has changed, or if the site stopped answering: run it again then.

Settings, from the environment:
  BASE_URL  another address with the same layout
  DELAY     seconds to wait before each request (1)
  TRIES     how often to try a file while the site is in trouble (5)
  BACKOFF   seconds to wait before the second try, doubled for each further one (2)
  MAX_MB    the largest file to download, in megabytes
END
}

# begin MAX_WORDS [-h] [--] DIR [...]: check the words and sets DIR; at most MAX_WORDS after DIR.
begin() {
    local max_words="$1"
    shift
    case "${1-}" in
        -h | --help) usage; settings; exit 0 ;;
        --) shift ;;
        -*) fail "unknown option $1 (a folder of that name is ./$1); see -h" 2 ;;
    esac
    [ -n "${1-}" ] || fail "give the folder to download into; see -h" 2
    [ "$#" -le "$((max_words + 1))" ] || fail "too many words after $1: $2 (quote a name with spaces)" 2
    case "$1" in -*) DIR="./$1" ;; *) DIR="$1" ;; esac
    case "${BASE_URL:-http://x}" in
        http://?* | https://?*) BASE_URL="${BASE_URL:-}" && BASE_URL="${BASE_URL%/}" ;;
        *) fail "BASE_URL is '$BASE_URL', it must start with http:// or https://" 2 ;;
    esac
    command -v python3 >/dev/null || fail "python3 is needed"
}

# download ...: see download.py; without the user's own settings of Python.
download() {
    exec python3 -E -s -S -B -X utf8 "$HERE/download.py" "$@"
}
