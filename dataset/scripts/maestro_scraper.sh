#!/usr/bin/env bash
# Fetch the MIDI files of MAESTRO v3.0.0 into a folder:
#   cd dataset; bash scripts/maestro_scraper.sh midi/maestro
set -euo pipefail

BASE_URL="${BASE_URL:-https://storage.googleapis.com/magentadata/datasets/maestro/v3.0.0}"
NAME="maestro-v3.0.0-midi.zip"
SHA256="70470ee253295c8d2c71e6d9d4a815189e35c89624b76d22fce5a019d5dde12c"

fail() {
    printf 'maestro_scraper.sh: %s\n' "$1" >&2
    exit 1
}

[ "$#" -eq 1 ] || fail "say the folder to fetch into: bash scripts/maestro_scraper.sh midi/maestro"
command -v python3 >/dev/null || fail "python3 is needed to unpack the archive"
folder="$1"
archive="$folder/$NAME"

echo "MAESTRO v3.0.0 (Hawthorne et al. 2019): about 1,280 piano performances, 56 MB of MIDI."
echo "Licence: CC BY-NC-SA 4.0, https://creativecommons.org/licenses/by-nc-sa/4.0/"
mkdir -p -- "$folder"

if command -v curl >/dev/null; then
    curl --silent --show-error --fail --location --retry 5 --continue-at - --output "$archive.part" -- "$BASE_URL/$NAME" \
        || fail "could not fetch $BASE_URL/$NAME; run this again to go on where it stopped"
elif command -v wget >/dev/null; then
    wget --tries=5 --continue --output-document="$archive.part" -- "$BASE_URL/$NAME" \
        || fail "could not fetch $BASE_URL/$NAME; run this again to go on where it stopped"
else
    fail "curl or wget is needed"
fi

found="$(python3 -c '
import hashlib, sys
print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$archive.part")"
if [ "$found" != "$SHA256" ]; then
    mv -f -- "$archive.part" "$archive.wrong"
    fail "the archive is not the one expected (SHA-256 $found); it is kept as $archive.wrong"
fi
mv -f -- "$archive.part" "$archive"
python3 -m zipfile -e "$archive" "$folder"
echo "done: MIDI files are in $folder; now: python3 preprocess.py"
