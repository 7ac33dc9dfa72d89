#!/bin/sh
# Fetches what the tests need and no package manager of the system has. Usage: internal/testenv/deps.sh kafka
# Jars go to $PENSTOCK_TEST_KAFKA, or else ${XDG_CACHE_HOME:-~/.cache}/penstock-test/kafka.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)

kafka() {
    dir=${PENSTOCK_TEST_KAFKA:-${XDG_CACHE_HOME:-$HOME/.cache}/penstock-test/kafka}
    pom=$root/deploy/test/kafka/pom.xml
    if [ -f "$dir/pom.xml" ] && cmp -s "$pom" "$dir/pom.xml"; then
        return # already fetched, and for this very list
    fi
    command -v mvn >/dev/null || { echo "mvn is needed to fetch Apache Kafka (Debian: apt-get install maven)" >&2; exit 1; }
    rm -rf "$dir"
    mkdir -p "$dir"
    mvn --batch-mode --quiet --file "$pom" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$dir"
    cp "$pom" "$dir/pom.xml"
}

case "${1:-}" in
kafka) kafka ;;
*) echo "usage: $0 kafka" >&2; exit 2 ;;
esac
