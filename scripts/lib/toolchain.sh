# shellcheck shell=bash
# Finds or installs a Rust toolchain. Sourced by the other scripts, from the repository's root.
#
# toolchain_for_host: sets CARGO, for what runs on this machine, and HOST_ENV, to run other things with the same.
# toolchain_for_wasm: sets WASM_CARGO and WASM_OPTIONS, for the component.
# shellcheck disable=SC2034 # they are used where this is sourced

RUST_MINOR_MIN=95 # rust-version in Cargo.toml

# Everything is looked for, and put, below target, wherever else the person's own builds go.
export CARGO_TARGET_DIR=$PWD/target
unset CARGO_BUILD_TARGET

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

# install PURPOSE PACKAGE...: installs Debian packages, and says what for.
install() {
  local purpose=$1 missing=() package root=()
  shift
  for package in "$@"; do
    dpkg-query --show --showformat='${db:Status-Status}' "$package" 2> /dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get > /dev/null || die "$purpose needs ${missing[*]}, and this is not a Debian: install them by hand"
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo > /dev/null || die "$purpose needs ${missing[*]}; as root: apt-get install ${missing[*]}"
    root=(sudo)
  fi
  say "Installing for $purpose: ${missing[*]}"
  local log
  log=$(mktemp)
  if ! { ${root[@]+"${root[@]}"} apt-get update && ${root[@]+"${root[@]}"} env DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --no-install-recommends "${missing[@]}"; } > "$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    die "apt-get install ${missing[*]} failed"
  fi
  rm -f "$log"
}

# recent RUSTC: whether a compiler is new enough.
recent() {
  local minor
  minor=$("$1" --version 2> /dev/null | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p')
  [ -n "$minor" ] && [ "$minor" -ge "$RUST_MINOR_MIN" ]
}

debian_rust() {
  install "$1" rustc-web cargo-web rust-web-src rust-web-llvm lld-22 wasi-libc gcc libc6-dev ca-certificates
}

# has_wasm: whether the rustc in use has the target's library; rustup's need not be the first in PATH.
has_wasm() { [ -d "$(rustc --print target-libdir --target wasm32-wasip2 2> /dev/null)" ]; }

toolchain_for_host() {
  HOST_ENV=(env)
  if ! recent rustc || ! command -v cargo > /dev/null; then
    debian_rust "the tests and the local stack (Rust 1.$RUST_MINOR_MIN or later)"
    recent /usr/bin/rustc || die "Debian's rustc is older than 1.$RUST_MINOR_MIN"
    HOST_ENV=(env PATH="/usr/bin:$PATH")
  fi
  CARGO=("${HOST_ENV[@]}" cargo)
  command -v cc > /dev/null || install "linking" gcc libc6-dev
}

toolchain_for_wasm() {
  WASM_OPTIONS=()
  if recent rustc && command -v rustup > /dev/null; then
    if ! has_wasm; then
      say "Adding rustup's target wasm32-wasip2"
      rustup target add wasm32-wasip2 > /dev/null 2>&1 || say "rustup cannot download the target wasm32-wasip2"
    fi
    if has_wasm; then
      WASM_CARGO=(cargo)
      return
    fi
    say "Debian's Rust has the target's library in its sources"
  fi
  debian_rust "building the component (Rust's standard library for wasm32-wasip2)"
  # rustc-web brings the library's sources; cargo builds it along, which needs the flag.
  WASM_CARGO=(env PATH="/usr/bin:$PATH" RUSTC_BOOTSTRAP=1 RUSTFLAGS="-L native=/usr/lib/wasm32-wasi" cargo)
  WASM_OPTIONS=("-Zbuild-std=std,panic_abort")
}

# rustfmt and clippy, of the toolchains in use.
lints() {
  if [ ${#HOST_ENV[@]} -gt 1 ] || [ ${#WASM_OPTIONS[@]} -gt 0 ]; then
    install "format and lints" rustfmt-web rust-web-clippy
  fi
  if [ ${#HOST_ENV[@]} -eq 1 ] && command -v rustup > /dev/null && ! cargo clippy --version > /dev/null 2>&1; then
    rustup component add rustfmt clippy || die "rustup cannot add rustfmt and clippy"
  fi
}

CARGO_DENY_VERSION=0.20.2

cargo_deny() {
  [ "$(target/tools/bin/cargo-deny --version 2> /dev/null)" = "cargo-deny $CARGO_DENY_VERSION" ] && return
  say "Installing for the check of the dependencies: cargo-deny $CARGO_DENY_VERSION, into target/tools (some minutes)"
  "${CARGO[@]}" install cargo-deny --quiet --locked --version "$CARGO_DENY_VERSION" --root target/tools --target-dir target/tools/build
}

# The versions of Debian's PostgreSQL servers; a folder may hold a client alone.
server_versions() {
  local folder
  for folder in /usr/lib/postgresql/*/bin; do
    [ -x "$folder/initdb" ] && basename "$(dirname "$folder")"
  done | sort --numeric-sort
}

# A server to run locally; nothing is done to one that is there.
local_postgres() {
  if [ -z "$(server_versions)" ]; then
    command -v initdb > /dev/null && command -v postgres > /dev/null && return
    # Debian would also make and start a cluster of its own; ours are throw-away ones.
    install "the local database" postgresql
  fi
  postgres_headers
}

# The headers of the server that is used, for the stand-in for safeupdate; nothing is done where the server has the real
# one. The package would bring a compiler of 500 MB and upgrade the server: it is unpacked, and not installed.
postgres_headers() {
  local version headers config package
  version=$(server_versions | tail -n 1)
  config=/usr/lib/postgresql/$version/bin/pg_config
  headers=usr/include/postgresql/$version/server/postgres.h
  [ -e "/$headers" ] || [ -e "$PWD/target/postgres-headers/$headers" ] || [ -e "$("$config" --pkglibdir 2> /dev/null)/safeupdate.so" ] && return
  package=postgresql-server-dev-$version
  say "Fetching for the local database (headers for the stand-in for safeupdate): $package"
  local work
  work=$(mktemp -d)
  if ! download "$work" "$package"; then
    rm -rf "$work"
    die "$package could not be downloaded; as root: apt-get install $package"
  fi
  mkdir -p target/postgres-headers
  dpkg-deb --extract "$work"/*.deb target/postgres-headers
  rm -rf "$work"
}

# download FOLDER PACKAGE: downloads a Debian package into a folder; with fresh lists, where the ones that are there are old.
download() {
  local root=()
  (cd "$1" && apt-get download "$2") > /dev/null 2>&1 && return
  [ "$(id -u)" -eq 0 ] || root=(sudo)
  ${root[@]+"${root[@]}"} apt-get update > /dev/null 2>&1
  (cd "$1" && apt-get download "$2") > /dev/null 2>&1
}

# pgTAP and pg_cron for the server that is used (the newest), and pg_prove; what the scripts under test call.
test_tools() {
  local version
  version=$(server_versions | tail -n 1)
  [ -z "$version" ] || install "the database's tests" "postgresql-$version-pgtap" "postgresql-$version-cron" libtap-parser-sourcehandler-pgtap-perl
  command -v pg_prove > /dev/null || die "pg_prove is missing; it comes with pgTAP"
  # PostgreSQL's own parser is a library in C, whose declarations are read with libclang.
  ldconfig -p | grep -Eq 'libclang(-[0-9.]+)?\.so' || install "the test that parses all SQL" libclang-dev
  command -v npm > /dev/null || install "the tests with PostgreSQL of other versions" npm
  command -v curl > /dev/null || install "the test of scripts/invoke" curl
  perl -MJSON::PP -MDigest::SHA -e 1 2> /dev/null || install "the test of scripts/invoke" perl
}

# stack: what runs the local stack: the component, and target/debug/stack. Progress goes to standard error.
stack() {
  toolchain_for_host
  local_postgres
  {
    say "==> The component (scripts/build)"
    scripts/build
    say "==> The local stack (the first time Wasmtime is compiled along: several minutes)"
    "${CARGO[@]}" build --package stack
  } >&2
}
