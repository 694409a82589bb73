# shellcheck shell=bash
# Finds or installs a Rust toolchain. Sourced by the other scripts, from the repository's root.
#
# toolchain_for_host: sets CARGO, for what runs on this machine.
# toolchain_for_wasm: sets WASM_CARGO and WASM_OPTIONS, for the component.
# shellcheck disable=SC2034 # they are used where this is sourced

RUST_MINOR_MIN=95 # rust-version in Cargo.toml

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

debian_rust() { install "$1" rustc-web cargo-web rust-web-src rust-web-llvm lld-22 wasi-libc gcc libc6-dev; }

toolchain_for_host() {
  if recent rustc && command -v cargo > /dev/null; then
    CARGO=(cargo)
  else
    debian_rust "the tests and the local stack (Rust 1.$RUST_MINOR_MIN or later)"
    recent /usr/bin/rustc || die "Debian's rustc is older than 1.$RUST_MINOR_MIN"
    CARGO=(env PATH="/usr/bin:$PATH" cargo)
  fi
  command -v cc > /dev/null || install "linking" gcc libc6-dev
}

toolchain_for_wasm() {
  WASM_OPTIONS=()
  if recent rustc && command -v rustup > /dev/null; then
    if rustup target list --installed 2> /dev/null | grep -qx wasm32-wasip2 \
      || { say "Adding rustup's target wasm32-wasip2"; rustup target add wasm32-wasip2 > /dev/null 2>&1; }; then
      WASM_CARGO=(cargo)
      return
    fi
    say "rustup cannot download the target wasm32-wasip2; Debian's Rust has it in its sources"
  fi
  debian_rust "building the component (Rust's standard library for wasm32-wasip2)"
  # rustc-web brings the library's sources; cargo builds it along, which needs the flag.
  WASM_CARGO=(env PATH="/usr/bin:$PATH" RUSTC_BOOTSTRAP=1 RUSTFLAGS="-L native=/usr/lib/wasm32-wasi" cargo)
  WASM_OPTIONS=("-Zbuild-std=std,panic_abort")
}

# rustfmt and clippy, of the toolchains in use.
lints() {
  if [ "${CARGO[0]}" = env ] || [ "${WASM_CARGO[0]}" = env ]; then
    install "format and lints" rustfmt-web rust-web-clippy
  fi
  if [ "${CARGO[0]}" = cargo ] && ! cargo clippy --version > /dev/null 2>&1; then
    rustup component add rustfmt clippy || die "rustup cannot add rustfmt and clippy"
  fi
}

CARGO_DENY_VERSION=0.20.2

cargo_deny() {
  [ "$(target/tools/bin/cargo-deny --version 2> /dev/null)" = "cargo-deny $CARGO_DENY_VERSION" ] && return
  say "Installing for the check of the dependencies: cargo-deny $CARGO_DENY_VERSION, into target/tools (some minutes)"
  "${CARGO[@]}" install cargo-deny --quiet --locked --version "$CARGO_DENY_VERSION" --root target/tools --target-dir target/tools/build
}

# pgTAP for the server that is used, and pg_prove.
pgtap() {
  local version
  if [ -d /usr/lib/postgresql ]; then
    # The newest is the one that the stack uses.
    version=$(find /usr/lib/postgresql -mindepth 1 -maxdepth 1 -printf '%f\n' | sort --numeric-sort | tail -n 1)
    install "the database's tests" "postgresql-$version-pgtap" libtap-parser-sourcehandler-pgtap-perl
  fi
  command -v pg_prove > /dev/null || die "pg_prove is missing; it comes with pgTAP"
}

# A server to run locally; nothing is done to one that is there.
local_postgres() {
  local folder
  for folder in /usr/lib/postgresql/*/bin; do
    [ -x "$folder/initdb" ] && return
  done
  command -v initdb > /dev/null && command -v postgres > /dev/null && return
  # Debian would also make and start a cluster of its own; ours are throw-away ones.
  install "the local database" postgresql
}
