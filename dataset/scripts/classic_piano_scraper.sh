#!/usr/bin/env bash
set -euo pipefail

usage() {
    cat <<'END'
bash scripts/classic_piano_scraper.sh DIR  for example: midi/classic

Fetches the pieces of the Classical Piano Midi Page (piano-midi.de) that the pages of its composers
link to, each to its place on the site below DIR. Of a piece in two formats, one is taken.
END
}

# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
MAX_MB="${MAX_MB:-16}"
begin 0 "$@"

BASE_URL="${BASE_URL:-http://www.piano-midi.de}"
index="$BASE_URL/midi_files.htm"

echo "Classical Piano Midi Page: pieces of some 25 composers, sequenced by Bernd Krueger."
echo "Licence: CC BY-SA 3.0 Germany, https://creativecommons.org/licenses/by-sa/3.0/de/deed.en"
echo "Size: roughly 300 files of about 40 kB, 20 MB at most; first some 40 pages are read."
need_siblings "$index"
fetch_links "$BASE_URL"
