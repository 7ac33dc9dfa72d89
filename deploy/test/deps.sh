#!/usr/bin/env bash
# Installs what the tests talk to, and does nothing where it is there already:
#   mosquitto, mosquitto-clients, a Java runtime, maven, node, npm   from Debian's packages (as root, or by sudo)
#   Apache Kafka's jars                                              by maven
#   mqtt.js                                                          by npm
# Jars and modules go to ${XDG_CACHE_HOME:-~/.cache}/penstock-test, outside of the source tree.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/penstock-test
mqttjs=5.16.0

have() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ]; }

packages=()
have mosquitto || packages+=(mosquitto)
have mosquitto_pub || packages+=(mosquitto-clients)
have java || packages+=(default-jre-headless)
have mvn || packages+=(maven)
have node || packages+=(nodejs)
have npm || packages+=(npm)

if [ ${#packages[@]} -gt 0 ]; then
    have apt-get || { echo "deps: please install: ${packages[*]}" >&2; exit 1; }
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "deps: apt-get install ${packages[*]}"
    # A server that the package starts by itself would take port 1883 from the demo.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    $sudo apt-get update -qq
    $sudo apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

sh "$root/internal/testenv/deps.sh" kafka

if [ "$(cat "$cache/mqttjs/version" 2>/dev/null)" != "$mqttjs" ]; then
    echo "deps: npm install mqtt@$mqttjs into $cache/mqttjs"
    mkdir -p "$cache/mqttjs"
    npm install --silent --no-audit --no-fund --prefix "$cache/mqttjs" "mqtt@$mqttjs"
    echo "$mqttjs" >"$cache/mqttjs/version"
fi
