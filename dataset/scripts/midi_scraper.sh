#!/usr/bin/env bash
set -euo pipefail

usage() {
    cat <<'END'
bash scripts/midi_scraper.sh DIR FROM...   for example: midi/mine https://example.org/music.html

Downloads the MIDI files that the given pages link to. FROM is the address of a page, of a list of
addresses or of a MIDI file, or the name of a file on this disk with one address a line
(lines that start with # are comments). Without FROM, it is BASE_URL. A file goes to
DIR/HOST/PATH as on its site; pages that a page links to are not followed.
END
}

# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
begin 1000 "$@"
[ "$1" != -- ] || shift
shift
[ "$#" -gt 0 ] || set -- "$BASE_URL"
[ -n "$1" ] || fail "give a page to download from; see -h" 2

echo "MIDI files from: $*"
echo "License: as their sites say; look there before you use or share them."
echo "Size: not known in advance; no more than ${MAX_MB:-16} MB a file."
download "$DIR" "$@"
