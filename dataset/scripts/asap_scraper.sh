#!/usr/bin/env bash
set -euo pipefail

usage() {
    cat <<'END'
bash scripts/asap_scraper.sh DIR           for example: midi/asap

Downloads the archive of the ASAP repository to DIR, and unpacks the piano performances that its
table names, as DIR/COMPOSER/...; the scores are not unpacked. The site builds the archive again
for each download, so its checksum changes: each file in it is checked instead.
END
}

# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
parse_args 0 "$@"
BASE_URL="${BASE_URL:-https://github.com/fosfrancesco/asap-dataset/archive/refs/heads}"

echo "ASAP (Foscarin et al., ISMIR 2020): 1,067 piano performances of 15 composers, 92 hours."
echo "License: CC BY-NC-SA 4.0, https://creativecommons.org/licenses/by-nc-sa/4.0/"
echo "Size: an archive of roughly 50 to 100 MB (the site does not say), and 45 MB unpacked."
download --archive asap-dataset-master.zip --max-mb 1000 \
    --table metadata.csv --column midi_performance "$DIR" "$BASE_URL/master.zip"
