#!/bin/sh
# Bring any copy of TIMIT into the lower-case layout that timit_processing.py reads (see --help).
#
# Everything is planned and compared first; copies are then made in a hidden folder inside DEST
# and renamed into place, so DEST never holds half a file and a mistake is found before any copy.
# POSIX tools only. POSIX has no way to copy many files under new names at once: one `cp` a file.

set -eu
LC_ALL=C # file names are bytes, and A-Z are 26 letters, whatever the user's language
export LC_ALL
unset CDPATH # cd would search it and print what it found

usage() {
    cat <<'END'
Usage: rename-files.sh [--dry-run] SOURCE [DEST]

Copies the files of TIMIT's utterances found anywhere below SOURCE to
DEST/{train,test}/drN/speaker/*.{wav,sph,flac,phn,wrd,txt,htk}, all names in lower case.
DEST is `timit` unless given. SOURCE is never changed.

SOURCE is the LDC disc, an unpacked download, or a copy with some or all names in lower case; any
further folders above {train,test} may be there. Of `SA1.WAV` and `SA1.wav` the RIFF file is
taken, of `SA1.WAV` and `SA1.WAV.wav` (or `.phn.txt`) the first. Files already in DEST are compared
and left alone, so the command can be repeated.

  --dry-run  list what would be copied, change nothing
  --help     show this help

Exit status: 0 when all files are in place, 2 (and one line that says why) when not.
END
}

fail() {
    printf '%s: error: %s\n' "${0##*/}" "$*" >&2
    exit 2
}

# Report, quietly ended where nobody reads any more.
say() {
    printf '%s\n' "$*" 2>/dev/null || exit 141
}

clean_up() {
    trap - EXIT
    rm -rf "$work" ${stage:+"$stage"}
}

# Physical absolute path of a folder: the same folder has the same name in every comparison.
absolute() (
    cd -P "$1" && pwd
)

# List the files below a folder, links followed, without what an interrupted run left.
list_files() {
    find -L "$1" -name '.rename-files.partial.*' -prune -o -type f -print 2>"$work/problem" ||
        fail "cannot read all of $1: $(head -n 1 "$work/problem")"
}

# Say what SOURCE is, if not a folder, and what to do.
fail_not_folder() {
    case $source in
    *.[zZ][iI][pP]) what="a zip file: run \`unzip '$source'\` and give the folder that it makes" ;;
    *.tar | *.tar.?* | *.tgz) what="an archive: run \`tar -xf '$source'\` and give the folder" ;;
    *.[iI][sS][oO]) what="the image of a disc: mount or unpack it and give its folder" ;;
    *) what="a file: give the folder of the corpus" ;;
    esac
    [ -e "$source" ] || what="a name where nothing is: give the folder of the corpus"
    fail "SOURCE '$source' is not a folder but $what"
}

# Say what lies below SOURCE, if nothing of TIMIT in its folders, and what to do.
what_else() {
    awk -F / '
        function found(rank, text) {
            if (best && rank >= best) return
            best = rank
            hint = text
        }
        { name = tolower($NF) }
        name ~ /\.(zip|tar|tgz|tar\.[a-z0-9]+|iso|7z)$/ {
            found(5, "the archive " $0 ": unpack it and give its folder")
        }
        name !~ /\.(wav|sph|flac)(;1)?$/ { next }
        name !~ /s[aix][0-9]+\.[a-z]+(;1)?$/ {
            if ($NF ~ /\.[A-Z]+(;1)?$/)
                found(4, $0 ", no name of TIMIT, its suffix in upper case: rename your own speech" \
                    " by `find \047" ENVIRON["source"] "\047 -name \047*.[A-Z]*\047 -exec sh -c" \
                    " \047mv \"$0\" \"${0%.*}.$(echo \"${0##*.}\" | tr A-Z a-z)\"\047 {} \\;`," \
                    " then see docs/corpora.md")
            found(4, $0 ", no name of TIMIT: such a corpus needs no renaming, see docs/corpora.md")
            next
        }
        tolower($(NF - 1)) ~ /^dr[1-8]-[a-z0-9]+$/ {
            if (name != $NF || $(NF - 1) ~ /[A-Z]/)
                found(1, "the NLTK sample with names in upper case: unpack it again")
            folder = substr($0, 1, length($0) - length($NF) - length($(NF - 1)) - 2)
            found(1, "the NLTK sample, which needs no renaming:" \
                " run timit_processing.py --data_path=\047" folder "\047")
        }
        tolower($(NF - 2)) ~ /^(train|test)$/ {
            found(2, $0 ", without a folder drN between set and speaker: copy the corpus again" \
                " with all its folders, or see docs/corpora.md")
        }
        {
            found(3, $0 ", whose folders tell no set, region and speaker: copy the corpus again" \
                " with its folders, or see docs/corpora.md")
        }
        END { print hint ? hint : "no audio: give the folder of the corpus" }
    ' "$work/found" >"$work/hint"
    echo "nothing of TIMIT below $source: expected .../{train,test}/drN/speaker/*.{wav,phn,wrd,txt}" \
        "in upper or lower case, found $(cat "$work/hint")"
}

dry_run=false
options=true
operands=0
source=
dest=timit
for argument; do
    if $options; then
        case $argument in
        --)
            options=false
            continue
            ;;
        --help | -h)
            usage
            exit 0
            ;;
        --dry-run)
            dry_run=true
            continue
            ;;
        -?*) fail "unknown option '$argument' (--help lists all)" ;;
        esac
    fi
    operands=$((operands + 1))
    case $operands in
    1) source=$argument ;;
    2) dest=$argument ;;
    esac
done
case $operands in
1 | 2) ;;
*) fail "expected SOURCE and at most a DEST, found $operands arguments (--help says more)" ;;
esac

# A name that starts with a dash would be an option to find, cp, mv and cd.
case $source in -*) source=./$source ;; esac
case $dest in -*) dest=./$dest ;; esac
# The shell leaves a quoted ~ as it is.
case $source in [~] | [~]/*) source=$HOME${source#?} ;; esac
case $dest in [~] | [~]/*) dest=$HOME${dest#?} ;; esac

[ -n "$dest" ] || fail "DEST is empty, expected the name of a folder"
[ -d "$source" ] || fail_not_folder
source=$(absolute "$source" 2>/dev/null) ||
    fail "SOURCE '$source' cannot be opened: see its permissions with ls -ld"
if [ -e "$dest" ]; then
    [ -d "$dest" ] || fail "DEST '$dest' is not a folder: choose another DEST"
    dest=$(absolute "$dest" 2>/dev/null) || fail "DEST '$dest' cannot be opened: choose another DEST"
fi

stage=
work=${TMPDIR:-/tmp}/rename-files.$$
(umask 077 && rm -rf "$work" && mkdir "$work") 2>/dev/null ||
    fail "cannot make the temporary folder $work"
trap clean_up EXIT
trap 'clean_up; exit 129' HUP
trap 'clean_up; exit 130' INT
trap 'clean_up; exit 141' PIPE
trap 'clean_up; exit 143' TERM

# ---- Plan: which file goes where, and which files must be equal for that ----

list_files "$source" >"$work/found"
: >"$work/existing"
for split in train test; do
    if [ -d "$dest/$split" ]; then
        list_files "$dest/$split" >>"$work/existing"
    fi
done
for list in copy compare folders counts; do
    : >"$work/$list"
done

# Writes copy (pairs of lines: a file, its place below DEST), compare (pairs of files), folders
# (to be made below DEST) and counts. "/" cannot be part of a name; tabs and spaces can.
export source dest work
awk '
    function is_riff(path, line) {
        line = ""
        getline line <path
        close(path)
        return substr(line, 1, 4) == "RIFF"
    }
    # Two recordings of one name in two formats: the earlier one in DEST or the RIFF file is taken.
    function choose(path, n, j) {
        for (j = 1; j <= n; j++) if (is_riff(path[j])) return path[j]
        return path[1]
    }
    FILENAME == ARGV[1] {
        existing[$0]
        next
    }
    {
        n = split($0, part, "/")
        if (n < 4) next
        split_name = tolower(part[n - 3])
        region = tolower(part[n - 2])
        speaker = tolower(part[n - 1])
        name = tolower(part[n])
        sub(/;[0-9]+$/, "", name) # version number of an ISO 9660 disc,
        sub(/\.$/, "", name)      # and its dot behind every name
        is_twin = name ~ /\.(wav\.wav|(phn|wrd|txt)\.txt)$/ && sub(/\.[a-z]+$/, "", name)
        if (split_name !~ /^(train|test)$/ || region !~ /^dr[1-8]$/ || speaker !~ /^[a-z0-9]+$/ ||
            name !~ /^s[aix][0-9]+\.(wav|sph|flac|phn|wrd|txt|htk)$/) next
        if ($0 !~ /^\//) { # the tail of a path with a line break in it
            broken = $0
            exit
        }

        key = split_name "/" region "/" speaker "/" name
        if (!(key in plain) && !(key in twins)) order[++n_keys] = key
        if (is_twin) twins[key] = twins[key] "\n" $0
        else plain[key] = plain[key] "\n" $0
    }
    END {
        if (broken != "") {
            print broken > (ENVIRON["work"] "/broken")
            exit
        }
        for (i = 1; i <= n_keys; i++) {
            key = order[i]
            # Twins (*.WAV.wav) count only where the file itself is missing.
            n_paths = split(substr(key in plain ? plain[key] : twins[key], 2), path, "\n")
            if (key ~ /wav$/ && (key in plain)) n_twins += gsub("\n", "", twins[key])

            target = ENVIRON["dest"] "/" key
            is_wav = key ~ /wav$/ && n_paths + (target in existing) > 1
            if (target in existing) {
                kept = target
                n_in_place++
            } else {
                kept = is_wav ? choose(path, n_paths) : path[1]
                n_copies++
                print kept "\n" key > (ENVIRON["work"] "/copy")
                folder = key
                sub(/\/[^\/]*$/, "", folder)
                if (!(folder in folders)) print folder > (ENVIRON["work"] "/folders")
                folders[folder]
            }
            for (j = 1; j <= n_paths; j++) {
                if (path[j] == kept) continue
                if (is_wav && is_riff(path[j]) != is_riff(kept)) {
                    if (!n_formats++)
                        print "took " kept " and left out " path[j] > (ENVIRON["work"] "/formats")
                } else print path[j] "\n" kept > (ENVIRON["work"] "/compare")
            }

            split(key, part, "/")
            if (!((part[1], part[2], part[3]) in seen)) n_speakers[part[1]]++
            seen[part[1], part[2], part[3]]
            split(part[4], stem, ".")
            if (!((part[1], part[2], part[3], stem[1]) in seen)) n_utterances++
            seen[part[1], part[2], part[3], stem[1]]
            n_files[stem[2]]++
        }
        n = split("wav sph flac phn wrd txt htk", kind, " ")
        for (i = 1; i <= n; i++)
            if (n_files[kind[i]] || kind[i] !~ /sph|flac/)
                list = list ", " n_files[kind[i]] + 0 " " kind[i]
        print n_copies + 0, n_in_place + 0, n_twins + 0, n_formats + 0, n_utterances + 0, \
            n_speakers["train"] + 0, n_speakers["test"] + 0, \
            substr(list, 3) > (ENVIRON["work"] "/counts")
    }
' "$work/existing" "$work/found"

if [ -e "$work/broken" ]; then
    fail "below $source a folder has a line break in its name: .../$(cat "$work/broken"): rename it"
fi
read -r copies in_place twins formats utterances train_speakers test_speakers kinds <"$work/counts"
[ "$utterances" -gt 0 ] || fail "$(what_else)"

while IFS= read -r path && IFS= read -r kept; do
    status=0
    cmp -s "$path" "$kept" || status=$?
    case $status in
    0) ;;
    1) fail "'$path' and '$kept' differ, but only one can be that file of $dest; nothing copied:" \
        "move the wrong one away" ;;
    *) fail "cannot compare '$path' with '$kept': one of them cannot be read; nothing copied:" \
        "see their permissions with ls -l" ;;
    esac
done <"$work/compare"

# A plain file system answers for the exact name only, and the exact names are known: what is
# there nevertheless is no file, or a file in upper case on a system that ignores case.
while IFS= read -r path && IFS= read -r key; do
    if [ -e "$dest/$key" ]; then
        fail "'$dest/$key' is in the way (not a file, or not in lower case): choose another DEST"
    fi
done <"$work/copy"

# ---- Copy ----

if $dry_run; then
    awk 'NR % 2 { path = $0; next } { print path " -> " ENVIRON["dest"] "/" $0 }' "$work/copy"
elif [ "$copies" -gt 0 ]; then
    say "copying $copies files to $dest"
    mkdir -p "$dest" 2>"$work/problem" || fail "cannot make $dest: $(head -n 1 "$work/problem")"
    # What killed runs left. In a container every run may have the same number as this one.
    for left_over in "$dest"/.rename-files.partial.*; do
        if [ -d "$left_over" ] && ! kill -0 "${left_over##*.}" 2>/dev/null; then
            rm -rf "$left_over"
        fi
    done
    stage=$dest/.rename-files.partial.$$
    {
        rm -rf "$stage" && mkdir "$stage" && (cd "$stage" && xargs mkdir -p) <"$work/folders"
    } 2>"$work/problem" || fail "cannot write to $dest: $(head -n 1 "$work/problem")"
    while IFS= read -r path && IFS= read -r key; do
        cp "$path" "$stage/$key" 2>"$work/problem" ||
            fail "nothing was put into $dest: $(head -n 1 "$work/problem")"
    done <"$work/copy"
    {
        # Copies from a disc would be read-only.
        chmod -R u+w "$stage" && (cd "$dest" && xargs mkdir -p) <"$work/folders"
    } 2>"$work/problem" || fail "nothing was put into $dest: $(head -n 1 "$work/problem")"
    while read -r folder; do
        mv "$stage/$folder"/* "$dest/$folder/" 2>"$work/problem" ||
            fail "not all files were put into $dest: $(head -n 1 "$work/problem")"
    done <"$work/folders"
fi

say "$dest: $utterances utterances of $train_speakers training and $test_speakers test speakers"
say "files: $kinds"
if [ "$copies" -eq 0 ]; then
    say "all $in_place files already in place"
elif $dry_run; then
    say "would copy $copies files, $in_place already in place (dry run: nothing was changed)"
else
    say "copied $copies files, $in_place already in place"
fi
if [ "$twins" -gt 0 ]; then
    say "left out $twins RIFF twins (*.WAV.wav)"
fi
if [ "$formats" -gt 0 ]; then
    say "$(cat "$work/formats"); the same for $formats files in all: RIFF beside another format"
fi
