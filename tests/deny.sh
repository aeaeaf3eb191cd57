#!/usr/bin/env bash
# Checks licences, duplicates and origins of all dependencies by .deny.toml; installs cargo-deny under target/ first.
# Advisories are not checked here: their database is a repository that a build machine may not reach.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly VERSION=0.20.2
deny=target/tools/bin/cargo-deny
if [ ! -x "$deny" ] || [ "$("$deny" --version)" != "cargo-deny $VERSION" ]; then
    cargo install cargo-deny --version "$VERSION" --locked --quiet --root target/tools --target-dir target/tools/build
    rm -rf target/tools/build
fi
"$deny" --offline --config .deny.toml check bans licenses sources
