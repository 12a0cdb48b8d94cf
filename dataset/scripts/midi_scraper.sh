#!/usr/bin/env bash
set -euo pipefail

usage() {
    cat <<'END'
bash scripts/midi_scraper.sh DIR FROM...   for example: midi/mine https://example.org/music.html

Fetches the MIDI files that the given pages link to. FROM is the address of a page, of a list of
addresses or of a MIDI file itself, or the name of a file on this disk with one such address a line
(lines that begin with # say nothing). Without FROM, it is BASE_URL. A file goes to
DIR/HOST/PATH as it is on its site; pages that a page links to are not followed.
END
}

# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
MAX_MB="${MAX_MB:-16}"
page="${BASE_URL:-}"
begin 1000 "$@"
[ "$1" != -- ] || shift
shift
[ "$#" -gt 0 ] || set -- "$page"
[ -n "$1" ] || fail "say a page to fetch from; -h says more" 2

for from in "$@"; do
    if is_url "$from"; then
        printf '%s\n' "$from"
    else
        [ -f "$from" ] || fail "$from is not http://, https:// or a file on this disk" 2
        cat -- "$from"
        echo
    fi
done | sed -e 's/\r$//' -e 's/^[[:space:]]*//' -e '/^#/d' -e '/^$/d' >"$WORK/given"
[ -s "$WORK/given" ] || fail "there are no addresses in $*" 2

echo "MIDI files from $(wc -l <"$WORK/given" | tr -d ' ') addresses."
echo "Licence: as their sites say; look there before you use or share them."
echo "Size: not known before; no more than $MAX_MB MB a file."
while read -r url <&3; do
    url="${url%%#*}"
    case "$url" in
        *.[Mm][Ii][Dd] | *.[Mm][Ii][Dd][Ii] | *.[Kk][Aa][Rr] | \
            *.[Mm][Ii][Dd]\?* | *.[Mm][Ii][Dd][Ii]\?* | *.[Kk][Aa][Rr]\?*)
            kind='link'
            ;;
        *) kind=page ;;
    esac
    if ! is_url "$url"; then
        note "$url" "not http:// or https://"
    elif [ "$kind" = link ]; then
        printf 'link\t%s\n' "$url" >>"$WORK/sources"
    else
        need_page "$url"
    fi
done 3<"$WORK/given"
fetch_links ""
