#!/usr/bin/env bash
set -euo pipefail

usage() {
    cat <<'END'
bash scripts/asap_scraper.sh DIR           for example: midi/asap

Fetches the archive of the ASAP repository and unpacks the piano performances that its table names,
as DIR/COMPOSER/...; scores stay in the archive, which stays in DIR. The archive is made anew by its
site for whoever asks and has no lasting checksum: each file in it is checked by its own.
END
}

# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
MAX_MB="${MAX_MB:-1000}"
begin 0 "$@"

BASE_URL="${BASE_URL:-https://github.com/fosfrancesco/asap-dataset/archive/refs/heads}"
name=asap-dataset-master.zip

echo "ASAP (Foscarin et al., ISMIR 2020): 1,067 piano performances of 15 composers, 92 hours."
echo "Licence: CC BY-NC-SA 4.0, https://creativecommons.org/licenses/by-nc-sa/4.0/"
echo "Size: an archive of roughly 50 to 100 MB (its site does not say), and 45 MB unpacked."
fetch_archive "$BASE_URL/master.zip" "$DIR/$name" zip
unpack "$DIR/$name" metadata.csv midi_performance
