#!/usr/bin/env bash
set -euo pipefail

usage() {
    cat <<'END'
bash scripts/midi_scraper.sh DIR FROM...   for example: midi/mine https://example.org/music.html

Downloads the MIDI files that pages link to. FROM is the address of a page, of a list of addresses
or of a MIDI file, or the name of a file on this disk with one address per line (lines that start
with # are comments). Without FROM, BASE_URL is used. A file is saved as DIR/HOST/PATH. Links to
other pages are not followed.
END
}

# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
parse_args 1000 "$@"
[ "$1" != -- ] || shift
shift
[ "$#" -gt 0 ] || set -- "$BASE_URL"
[ -n "$1" ] || fail "give a page to download from; see -h" 2

echo "MIDI files from: $*"
echo "License: as their sites say; read them before you use or share the files."
echo "Size: not known in advance; no more than ${MAX_MB:-16} MB per file."
download "$DIR" "$@"
