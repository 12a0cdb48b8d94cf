#!/usr/bin/env bash
set -euo pipefail

usage() {
    cat <<'END'
bash scripts/classic_piano_scraper.sh DIR  for example: midi/classic

Downloads the pieces of the Classical Piano Midi Page (piano-midi.de) that the pages of its
composers link to. Paths below DIR are those of the site. If the site has a piece in two formats,
only one is downloaded.
END
}

# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
parse_args 0 "$@"
BASE_URL="${BASE_URL:-http://www.piano-midi.de}"

echo "Classical Piano Midi Page: pieces of some 25 composers, sequenced by Bernd Krueger."
echo "License: CC BY-SA 3.0 Germany, https://creativecommons.org/licenses/by-sa/3.0/de/deed.en"
echo "Size: roughly 300 files of about 40 kB, 20 MB at most; some 40 pages are read first."
download --home "$BASE_URL" --index "$BASE_URL/midi_files.htm" "$DIR"
