# What the download scripts share. Sourced by them, not run; made for bash 3.2 and newer.
# A script says usage(), then calls begin, which sets DIR.
# shellcheck shell=bash

ME="${0##*/}"
HERE="$(CDPATH='' cd -- "${BASH_SOURCE[0]%/*}" && pwd)"
WORK=""         # a folder for pages and notes, gone at the end
DIR=""          # where the music goes
reason=""       # why the last thing failed
pages=0         # how many pages were read
asked=""        # whether the site was asked for anything yet
incomplete=""   # the sentence to end with if more than single links was not to be had

fail() {
    printf '%s: %s\n' "$ME" "$1" >&2
    exit "${2:-1}"
}

settings() {
    cat <<'END'

Files in DIR that are whole are not fetched again; one that is on its way is NAME.part, from which
the next run goes on. No other file is changed or deleted. Ctrl-C at any time.

It ends with 0 if there is music, even if single links were broken (each is named), and with 1 if
there is none, if a page has changed, or if the site stopped answering: run it again then.

Settings, from the environment:
  BASE_URL  another address of the same layout
  DELAY     seconds to wait before each request (1)
  TRIES     how often to try for a file while the site is in trouble (5)
  BACKOFF   seconds to wait before the second try, doubled for each further one (2)
  MAX_MB    the largest file to take, in megabytes
  FETCHER   curl or wget; without it, the first of them that is installed
END
}

# begin MORE [-h] [--] DIR [...]: look at the words, at most MORE of them after DIR, and at the
# settings, before anything is asked for.
begin() {
    local more="$1"
    shift
    case "${1-}" in
        -h | --help) usage; settings; exit 0 ;;
        --) shift ;;
        -*) fail "there is no option $1 (a folder of that name is ./$1); -h says more" 2 ;;
    esac
    [ -n "${1-}" ] || fail "say the folder to fetch into; -h says more" 2
    [ "$#" -le "$((more + 1))" ] || fail "too many words after $1: $2 (a name with spaces wants quotes)" 2
    DIR="$1"
    DELAY="${DELAY:-1}" TRIES="${TRIES:-5}" BACKOFF="${BACKOFF:-2}"
    whole TRIES "$TRIES"
    whole MAX_MB "$MAX_MB"
    seconds DELAY "$DELAY"
    seconds BACKOFF "$BACKOFF"
    if [ -n "${BASE_URL:-}" ]; then
        is_url "$BASE_URL" || fail "BASE_URL is '$BASE_URL', not http:// or https://" 2
        BASE_URL="${BASE_URL%/}"
    fi
    FETCHER="${FETCHER:-$(command -v curl >/dev/null && echo curl || echo wget)}"
    case "$FETCHER" in curl | wget) ;; *) fail "FETCHER is '$FETCHER', not curl or wget" 2 ;; esac
    command -v "$FETCHER" >/dev/null || fail "curl or wget is needed"
    command -v python3 >/dev/null || fail "python3 is needed"
    mkdir -p -- "$DIR" || fail "the folder $DIR can not be made"
    WORK="$(mktemp -d)" || fail "no folder for notes can be made"
    trap 'rm -rf -- "$WORK"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    : >"$WORK/sources"
    : >"$WORK/failed"
}

whole() {
    case "$2" in '' | 0* | *[!0-9]*) fail "$1 is '$2', not a whole number from 1" 2 ;; esac
}

seconds() {
    case "$2" in '' | . | *[!0-9.]* | *.*.*) fail "$1 is '$2', not a number of seconds" 2 ;; esac
}

is_url() {
    case "$1" in http://?* | https://?*) ;; *) return 1 ;; esac
}

# says TEXT PART: whether the part is in the text.
says() {
    case "$1" in *"$2"*) ;; *) return 1 ;; esac
}

# tools FILE WORDS: a Python program beside this file, without the user's own settings of Python.
tools() {
    python3 -E -s -S -B -X utf8 "$HERE/$1" "${@:2}"
}

# measure FILE: sets `size`, in bytes; 0 if there is no such file.
measure() {
    size=0
    if [ -s "$1" ]; then size="$(wc -c <"$1")" && size=$((size)); fi
}

# check KIND FILE: 0 if it is whole; 1 if it is something else, 2 if it is cut short, with `reason`.
check() {
    local found=0
    if [ "$1" = page ]; then
        reason="an empty page"
        [ -s "$2" ]
        return
    fi
    reason="$(tools whole.py "$1" "$2")" || found=$?
    return "$found"
}

# back_off TRY: wait before this try, longer each time and at least as the site asked, to 2 minutes.
back_off() {
    sleep "$(LC_ALL=C awk -v first="$BACKOFF" -v try="$1" -v asked="${retry_after:-0}" '
        BEGIN { w = first * 2 ^ (try - 2); if (asked + 0 > w) w = asked; print (w > 120 ? 120 : w) }')"
}

# request URL FILE FROM: ask once for what comes after the FROM bytes that FILE has; sets `code` (of
# the tool), `status` and `retry_after`.
request() {
    local url="$1" file="$2" from="$3" key value
    if [ -n "$asked" ]; then sleep "$DELAY"; fi
    asked=yes
    code=0
    : >"$WORK/headers"
    (
        trap '' XFSZ # the limit below is an error of the tool then, not its death
        ulimit -S -f "$((MAX_MB * 1024))" 2>/dev/null || true
        if [ "$FETCHER" = curl ]; then
            set -- --silent --show-error --fail --location --max-redirs 10 --globoff \
                --proto '=http,https' --proto-redir '=http,https' --connect-timeout 20 \
                --speed-limit 100 --speed-time 60 --max-filesize "$((MAX_MB * 1048576))" \
                --dump-header "$WORK/headers" --output "$file" --url "$url"
            [ "$from" -eq 0 ] || set -- "$@" --continue-at "$from"
        else
            set -- --no-verbose --server-response --output-file="$WORK/headers" --tries=1 \
                --max-redirect=10 --timeout=30 --no-hsts --output-document="$file"
            [ "$from" -eq 0 ] || set -- "$@" --continue
            set -- "$@" -- "$url"
        fi
        exec "$FETCHER" "$@" </dev/null 2>"$WORK/said"
    ) || code=$?
    status=0 retry_after=0
    while read -r key value _; do
        value="${value%$'\r'}"
        case "$key:$value" in
            HTTP/*:[1-9]*) status="$value" retry_after=0 ;;
            [Rr][Ee][Tt][Rr][Yy]-[Aa][Ff][Tt][Ee][Rr]::[0-9]*) retry_after="${value%%[!0-9]*}" ;;
        esac
    done <"$WORK/headers"
}

# why CODE: what the tool means by the code it ended with.
why() {
    case "$FETCHER:$1" in
        curl:6) echo "no such host" ;;
        curl:7) echo "no connection" ;;
        curl:18) echo "the connection broke" ;;
        curl:28) echo "too slow" ;;
        curl:35 | curl:60 | wget:5) echo "no secure connection" ;;
        wget:4) echo "no connection, or it broke" ;;
        *) echo "$FETCHER ended with $1: $(cat -- "$WORK/headers" "$WORK/said" | tail -n 1)" ;;
    esac
}

# land FILE: FILE.part is whole, so it becomes FILE, unless something else is there.
land() {
    if [ -e "$1" ] || [ -L "$1" ]; then
        reason="$1 is in the way"
        return 1
    fi
    mv -f -- "$1.part" "$1" || fail "$1 can not be written"
}

# fetch URL FILE KIND: FILE whole and checked, by way of FILE.part.
# 1: this link is no good; 2: the site is in trouble; `reason` says why.
fetch() {
    local url="$1" file="$2" kind="$3" part="$2.part" limit="$((MAX_MB * 1048576))"
    local try=1 wait_first="" before whole_once="" found
    if [ -s "$part" ] && check "$kind" "$part"; then
        land "$file"
        return
    fi
    measure "$part"
    [ "$size" -lt "$limit" ] || rm -f -- "$part"
    retry_after=0
    while [ "$try" -le "$TRIES" ]; do
        [ -z "$wait_first" ] || back_off "$try"
        wait_first=""
        measure "$part"
        before="$size"
        request "$url" "$part" "$before"
        measure "$part"
        if [ "$size" -ge "$limit" ] || [ "$FETCHER:$code" = curl:63 ]; then
            rm -f -- "$part"
            reason="larger than $MAX_MB MB"
            return 1
        fi
        case "$FETCHER:$code:$status" in
            *:416 | curl:33:*) # the site has no such range: begin again
                rm -f -- "$part"
                reason="HTTP $status"
                [ "$before" -gt 0 ] || return 1
                ;;
            *:0:2??)
                found=0
                check "$kind" "$part" || found=$?
                [ "$found" -ne 0 ] || { land "$file"; return; }
                if [ "$before" -eq 0 ]; then
                    if [ "$found" -eq 1 ] || [ "$size" = "$whole_once" ]; then
                        rm -f -- "$part"
                        return 1
                    fi
                    whole_once="$size"
                elif [ "$found" -eq 1 ]; then
                    rm -f -- "$part"
                fi
                ;;
            curl:23:* | wget:3:*) fail "$part can not be written" ;;
            *:408 | *:425 | *:429 | *:5??) reason="HTTP $status" wait_first=yes ;;
            *:4?? | curl:47:* | curl:1:* | wget:[78]:3??)
                reason="HTTP $status"
                [ -s "$part" ] || rm -f -- "$part"
                return 1
                ;;
            *) reason="$(why "$code")" wait_first=yes ;;
        esac
        try=$((try + 1))
    done
    [ -s "$part" ] || rm -f -- "$part"
    return 2
}

# read_page KIND URL: fetch a page to $WORK/pageN, as a source of links: KIND is `page`, or `maybe` if
# it may have none. 1: it is not there; 2: the site is in trouble; `reason` says why.
read_page() {
    pages=$((pages + 1))
    printf 'reading %s\n' "$2"
    fetch "$2" "$WORK/page$pages" page || return
    mv -f -- "$WORK/headers" "$WORK/page$pages.headers"
    printf '%s\t%s\t%s\n' "$1" "$2" "$WORK/page$pages" >>"$WORK/sources"
}

# need_page URL: read a page that has to be there, with links on it.
need_page() {
    local found=0
    read_page page "$1" || found=$?
    [ "$found" -eq 0 ] || miss_page "$found" "$1"
}

# miss_page FOUND URL: a page that has to be there is not, or not as it was; told at the end.
miss_page() {
    note "$2" "$reason"
    if [ "$1" -eq 2 ]; then
        incomplete="could not read $2 ($reason); run it again to go on"
    else
        incomplete="$2 has changed, or the address is wrong ($reason)"
    fi
}

# need_siblings URL: read a page and those of the same folder that it links to.
need_siblings() {
    local page found=0
    read_page maybe "$1" || found=$?
    [ "$found" -eq 0 ] || { miss_page "$found" "$1"; return; }
    tools files.py pages "$WORK/page$pages" "$1" >"$WORK/siblings"
    [ -s "$WORK/siblings" ] || incomplete="$1 has changed: no links to pages beside it"
    while read -r page <&3; do
        found=0
        read_page maybe "$page" || found=$?
        case "$found" in
            1) note "$page" "$reason" ;;
            2) miss_page 2 "$page" ;;
        esac
    done 3<"$WORK/siblings"
}

# note NAME REASON: something is not to be had; it is named at the end.
note() {
    printf '%s: %s\n' "$1" "$2" >>"$WORK/failed"
}

# fetch_links SITE: all that the sources name, each to its place in DIR, which is without the
# host for SITE's own files; then the report, and the end.
fetch_links() {
    local state url name host total=0 here=0 new=0 number=0 row=0 last="" silent=" " found folder
    tools files.py plan "$DIR" "$1" <"$WORK/sources" >"$WORK/plan"
    reason="no links to MIDI files"
    while IFS=$'\t' read -r state url name; do
        if [ "$state" = bare ]; then miss_page 1 "$url"; else total=$((total + 1)); fi
    done <"$WORK/plan"
    if [ "$total" -eq 0 ]; then
        incomplete="${incomplete:-there are no links to MIDI files${1:+: $1 has changed}}"
        finish 0 0
    fi
    printf '%s files to have in %s, at most one request in %s s\n' "$total" "$DIR" "$DELAY"
    while IFS=$'\t' read -r state url name <&3; do
        [ "$state" != bare ] || continue
        number=$((number + 1))
        host="${url#*://}" host="${host%%/*}"
        found=0
        if [ "$state" = here ]; then
            here=$((here + 1))
            continue
        elif [ "$state" != missing ]; then
            reason="is there already, but $state; move it away to fetch it" found=1
        elif says "$silent" " $host "; then
            reason="$host did not answer before" found=2
        elif folder="$DIR/$name" && ! mkdir -p -- "${folder%/*}" 2>/dev/null; then
            reason="its folder can not be made" found=1
        else
            fetch "$url" "$DIR/$name" midi || found=$?
            if [ "$found" -eq 2 ]; then
                [ "$host" = "$last" ] || row=0
                row=$((row + 1)) last="$host"
                [ "$row" -lt 3 ] || silent="$silent$host "
            else
                row=0
            fi
        fi
        if [ "$found" -eq 0 ]; then
            new=$((new + 1))
            printf '%s/%s %s\n' "$number" "$total" "$name"
        else
            note "$name" "$reason ($url)"
        fi
    done 3<"$WORK/plan"
    [ "$silent" = " " ] || incomplete="no answer any more from ${silent# }- run it again to go on"
    finish "$new" "$here"
}

# finish NEW HERE: the report, and the end of the script.
finish() {
    if [ -s "$WORK/failed" ]; then
        echo "not to be had:"
        sed 's/^/  /' "$WORK/failed"
    fi
    printf 'done: %s new, %s already here, %s not to be had\n' \
        "$1" "$2" "$(wc -l <"$WORK/failed" | tr -d ' ')"
    [ "$(($1 + $2))" -gt 0 ] || fail "no music could be had${incomplete:+: $incomplete}"
    [ -z "$incomplete" ] || fail "$incomplete"
    echo "music is in $DIR; now: python3 preprocess.py"
    exit 0
}

# fetch_archive URL FILE KIND: FILE, or the end of the script with a sentence.
fetch_archive() {
    local found=0
    if [ -e "$2" ]; then
        check "$3" "$2" || fail "$2 is there already, but $reason; move it away to fetch it"
        echo "$2 is here already"
        return
    fi
    echo "fetching $1; meanwhile $2.part grows"
    fetch "$1" "$2" "$3" || found=$?
    case "$found" in
        1) fail "could not fetch $1: $reason; has the address or the file changed?" ;;
        2) fail "could not fetch $1: $reason; run it again to go on where it stopped" ;;
    esac
}

# unpack ARCHIVE TABLE COLUMN [SPLIT]: the MIDI files that its table names, by their split if there is one.
unpack() {
    local found=0
    tools files.py unpack "$1" "$DIR" "${@:2}" >"$WORK/unpacked" 2>"$WORK/said" || found=$?
    grep '^failed ' "$WORK/unpacked" | sed 's/^failed //' >>"$WORK/failed" || true
    [ "$found" -eq 0 ] || fail "$(cat -- "$WORK/unpacked" "$WORK/said" | tail -n 1)"
    # shellcheck disable=SC2046  # two numbers
    finish $(tail -n 1 "$WORK/unpacked")
}
