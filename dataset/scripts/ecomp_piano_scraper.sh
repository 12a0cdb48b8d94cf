#!/usr/bin/env bash
set -euo pipefail

usage() {
    cat <<'END'
bash scripts/ecomp_piano_scraper.sh DIR    for example: midi/ecomp

Fetches the performances of the International Piano-e-Competition that its pages for the years 2002
to 2018 link to, each to its place on the site below DIR.
END
}

# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
MAX_MB="${MAX_MB:-16}"
begin 0 "$@"

BASE_URL="${BASE_URL:-https://www.piano-e-competition.com}"

echo "International Piano-e-Competition: performances recorded on Disklaviers."
echo "Licence: none is stated; the files are offered to listen to, all rights stay with their owners."
echo "Size: roughly 1,500 to 3,000 files of about 50 kB, 150 MB at most."
for year in 2002 2004 2006 2008 2009 2011 2013 2014 2015 2017 2018; do
    need_page "$BASE_URL/midi_$year.asp"
done
fetch_links "$BASE_URL"
