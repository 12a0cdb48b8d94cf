#!/usr/bin/env bash
set -euo pipefail

usage() {
    cat <<'END'
bash scripts/maestro_scraper.sh DIR        for example: midi/maestro

Downloads the archive of MAESTRO v3.0.0 to DIR, and unpacks its MIDI files by their official split,
as DIR/train/YEAR/..., DIR/validation/YEAR/... and DIR/test/YEAR/....
If BASE_URL has another archive, set SHA256 in the environment to its checksum.
END
}

# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
parse_args 0 "$@"
BASE_URL="${BASE_URL:-https://storage.googleapis.com/magentadata/datasets/maestro/v3.0.0}"
SHA256="${SHA256:-70470ee253295c8d2c71e6d9d4a815189e35c89624b76d22fce5a019d5dde12c}"

echo "MAESTRO v3.0.0 (Hawthorne et al., 2019): 1,276 piano performances, 199 hours."
echo "License: CC BY-NC-SA 4.0, https://creativecommons.org/licenses/by-nc-sa/4.0/"
echo "Size: an archive of 56 MB, and about 80 MB unpacked."
ARCHIVE=maestro-v3.0.0-midi.zip
download --archive "$ARCHIVE" --sha256 "$SHA256" --max-mb 500 --table maestro-v3.0.0.csv \
    --column midi_filename --split split "$DIR" "$BASE_URL/$ARCHIVE"
