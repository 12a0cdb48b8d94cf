#!/usr/bin/env bash
set -euo pipefail

usage() {
    cat <<'END'
bash scripts/ecomp_piano_scraper.sh DIR    for example: midi/ecomp

Downloads the performances of the International Piano-e-Competition that its pages for the years
2002 to 2018 link to. Paths below DIR are those of the site.
END
}

# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
parse_args 0 "$@"
BASE_URL="${BASE_URL:-https://www.piano-e-competition.com}"

echo "International Piano-e-Competition: performances recorded on Disklaviers."
echo "License: none is stated; the files are offered to listen to, all rights stay with their owners."
echo "Size: roughly 1,500 to 3,000 files of about 50 kB, 150 MB at most."
years="2002 2004 2006 2008 2009 2011 2013 2014 2015 2017 2018"
# shellcheck disable=SC2046  # one argument per year
download --home "$BASE_URL" "$DIR" $(printf "$BASE_URL/midi_%s.asp " $years)
