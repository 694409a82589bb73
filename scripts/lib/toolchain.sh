# shellcheck shell=bash
# Finds the tools that the other scripts need, and installs missing ones. Sourced by them, from the repository's root.
#
# On Debian and Ubuntu each function names the packages and their purpose before it installs them. On macOS it
# names the Homebrew packages and ends; on other systems it names the Debian packages and ends.
#
# toolchain_for_host: sets CARGO, for programs of this machine, and HOST_ENV, which runs other tools with the same Rust.
# toolchain_for_wasm: sets WASM_CARGO and WASM_OPTIONS, for the component.
# shellcheck disable=SC2034 # the sourcing scripts use them

RUST_MINOR_MIN=95 # rust-version in Cargo.toml

# Every script finds and puts its files below target, even if CARGO_TARGET_DIR or CARGO_BUILD_TARGET differ.
export CARGO_TARGET_DIR=$PWD/target
unset CARGO_BUILD_TARGET

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

# install PURPOSE PACKAGE...: installs those of the Debian packages that are missing.
install() {
  local purpose=$1 missing=() package root=()
  shift
  [ "$(uname -s)" != Darwin ] || die "$purpose needs Homebrew packages: brew install$(homebrew "$@")"
  for package in "$@"; do
    dpkg-query --show --showformat='${db:Status-Status}' "$package" 2> /dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get > /dev/null || die "$purpose needs the Debian packages ${missing[*]}; this system has no apt-get, so install their equivalents"
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

# homebrew PACKAGE...: prints the Homebrew packages for Debian packages, each after a space.
homebrew() {
  local package
  for package in "$@"; do
    case $package in
      rustc-web | rustup) echo rustup ;;
      postgresql | postgresql-client) echo postgresql@17 ;;
      postgresql-*-cron) echo pg_cron ;;
      libclang-dev) echo llvm ;;
      npm) echo node ;;
      python3-venv) echo python ;;
      curl | jq | perl) echo "$package" ;;
      # The others belong to one of these, or to Xcode's command line tools.
    esac
  done | sort --unique | sed 's/^/ /' | tr -d '\n'
}

# recent RUSTC: succeeds if a compiler is new enough.
recent() {
  local minor
  minor=$("$1" --version 2> /dev/null | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p')
  [ -n "$minor" ] && [ "$minor" -ge "$RUST_MINOR_MIN" ]
}

# packaged_rust PURPOSE: installs Rust from packages: Debian 12 has a recent one, and later releases and Ubuntu have rustup.
packaged_rust() {
  if [ "$(uname -s)" = Darwin ] || ! command -v apt-get > /dev/null || packaged rustc-web; then
    install "$1" rustc-web cargo-web rust-web-src rust-web-llvm lld-22 wasi-libc gcc libc6-dev ca-certificates
    DEBIAN_RUST=1
  elif packaged rustup; then
    install "$1" rustup gcc libc6-dev ca-certificates
    say "Installing for $1: Rust's stable toolchain, with rustup"
    rustup toolchain install stable --profile minimal > /dev/null 2>&1 || die "rustup cannot install Rust"
    rustup default stable > /dev/null 2>&1 || die "rustup cannot use the toolchain that it has installed"
  else
    die "$1 needs Rust 1.$RUST_MINOR_MIN or later, and this system has no package of it: https://rustup.rs installs it"
  fi
}

# packaged PACKAGE: succeeds if the system can install a package of this name.
packaged() { apt-cache show "$1" > /dev/null 2>&1; }

# has_wasm: succeeds if the rustc in use has the target's library. rustup's rustc need not be the first in PATH.
has_wasm() { [ -d "$(rustc --print target-libdir --target wasm32-wasip2 2> /dev/null)" ]; }

# DEBIAN_RUST is set if Debian's own Rust is in use, for the component or for everything.
DEBIAN_RUST=''

toolchain_for_host() {
  HOST_ENV=(env)
  if ! recent rustc || ! command -v cargo > /dev/null; then
    packaged_rust "the tests and the local stack (Rust 1.$RUST_MINOR_MIN or later)"
    recent /usr/bin/rustc || die "the packaged rustc is older than 1.$RUST_MINOR_MIN: https://rustup.rs installs a newer one"
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
    say "Debian's Rust has the target's library in its sources: trying that"
  fi
  packaged_rust "building the component (Rust's standard library for wasm32-wasip2)"
  [ -n "$DEBIAN_RUST" ] || die "rustup cannot install the target wasm32-wasip2: rustup target add wasm32-wasip2 says why"
  # rustc-web brings the library's sources; cargo builds it along, which needs the flag.
  WASM_CARGO=(env PATH="/usr/bin:$PATH" RUSTC_BOOTSTRAP=1 RUSTFLAGS="-L native=/usr/lib/wasm32-wasi" cargo)
  WASM_OPTIONS=("-Zbuild-std=std,panic_abort")
}

# lints: rustfmt and clippy, of the toolchains in use.
lints() {
  [ -z "$DEBIAN_RUST" ] || install "format and lints" rustfmt-web rust-web-clippy
  if command -v rustup > /dev/null && ! "${CARGO[@]}" clippy --version > /dev/null 2>&1; then
    say "Installing for format and lints: rustfmt and clippy, with rustup"
    rustup component add rustfmt clippy > /dev/null 2>&1 || die "rustup cannot add rustfmt and clippy"
  fi
}

CARGO_DENY_VERSION=0.20.2

# cargo_deny: the tool that checks dependencies.
cargo_deny() {
  [ "$(target/tools/bin/cargo-deny --version 2> /dev/null)" = "cargo-deny $CARGO_DENY_VERSION" ] && return
  say "Installing for the check of the dependencies: cargo-deny $CARGO_DENY_VERSION, into target/tools (some minutes)"
  "${CARGO[@]}" install cargo-deny --quiet --locked --version "$CARGO_DENY_VERSION" --root target/tools --target-dir target/tools/build
}

CARGO_CYCLONEDX_VERSION=0.5.9

# cargo_cyclonedx: the tool that writes bills of materials.
cargo_cyclonedx() {
  [ "$(target/tools/bin/cargo-cyclonedx cyclonedx --version 2> /dev/null)" = "cargo-cyclonedx-cyclonedx $CARGO_CYCLONEDX_VERSION" ] && return
  say "Installing for the bills of materials: cargo-cyclonedx $CARGO_CYCLONEDX_VERSION, into target/tools (some minutes)"
  "${CARGO[@]}" install cargo-cyclonedx --quiet --locked --version "$CARGO_CYCLONEDX_VERSION" --root target/tools --target-dir target/tools/build
}

# server_versions: the major versions of Debian's PostgreSQL servers. A folder may hold a client alone.
server_versions() {
  local folder
  for folder in /usr/lib/postgresql/*/bin; do
    [ -x "$folder/initdb" ] && basename "$(dirname "$folder")"
  done | sort --numeric-sort
}

# local_postgres: a PostgreSQL server for throw-away clusters. An installed server is left as it is.
local_postgres() {
  if [ -z "$(server_versions)" ]; then
    command -v initdb > /dev/null && command -v postgres > /dev/null && return
    install "the local database" postgresql
  fi
  postgres_headers
}

# postgres_headers: the server's headers, to compile the stand-in for safeupdate; not needed if the server has safeupdate.
# Installing the package would also install a compiler of 500 MB and upgrade the server, so it is only unpacked.
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

# download FOLDER PACKAGE: downloads a Debian package into a folder. If the package lists are too old for that, updates them.
download() {
  local root=()
  (cd "$1" && apt-get download "$2") > /dev/null 2>&1 && return
  [ "$(id -u)" -eq 0 ] || root=(sudo)
  ${root[@]+"${root[@]}"} apt-get update > /dev/null 2>&1
  (cd "$1" && apt-get download "$2") > /dev/null 2>&1
}

# test_tools: pgTAP, pg_cron and Supabase's linter for the newest server, pg_prove, and the programs that the tested scripts call.
test_tools() {
  local version
  version=$(server_versions | tail -n 1)
  [ -z "$version" ] || install "the database's tests" "postgresql-$version-pgtap" "postgresql-$version-cron" "postgresql-$version-plpgsql-check" libtap-parser-sourcehandler-pgtap-perl
  command -v pg_prove > /dev/null || die "pg_prove is missing: https://pgtap.org has it, and pgTAP"
  # PostgreSQL's own parser is a library in C. Its build reads the declarations with libclang. (macOS has it in Xcode's tools.)
  ! command -v ldconfig > /dev/null || ldconfig -p | grep -Eq 'libclang(-[0-9.]+)?\.so' || install "the test that parses all SQL" libclang-dev
  command -v npm > /dev/null || install "the tests with clients' libraries, and with PostgreSQL of other versions" npm
  command -v curl > /dev/null || install "the test of scripts/invoke" curl
  perl -MJSON::PP -MDigest::SHA -e 1 2> /dev/null || install "the test of scripts/invoke" perl
  command -v jq > /dev/null || install "the test of scripts/release" jq
  client_libraries
}

# client_libraries: the libraries of npm and PyPI that tests/clients.rs and tests/asyncapi.rs use, into target/clients. The
# lock files in it tell which ones it has, so they are copied last.
client_libraries() {
  local folder=target/clients lock lacks=''
  for lock in package-lock.json requirements.txt; do
    cmp --silent "tests/clients/$lock" "$folder/$lock" || lacks=yes
  done
  [ -n "$lacks" ] || return 0
  python3 -c 'import ensurepip, venv' 2> /dev/null || install "the tests with clients' libraries" python3-venv
  say "Installing for the tests with clients' libraries: supabase-js, standardwebhooks and AsyncAPI's schema, with npm and pip, into $folder"
  rm -rf "$folder"
  mkdir -p "$folder/npm"
  cp tests/clients/package.json tests/clients/package-lock.json tests/clients/.npmrc "$folder/npm"
  (cd "$folder/npm" && npm ci --ignore-scripts --silent) || die "npm cannot install the libraries of tests/clients/package-lock.json"
  mv "$folder/npm/node_modules" "$folder"
  python3 -m venv "$folder/python"
  "$folder/python/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement tests/clients/requirements.txt ||
    die "pip cannot install the libraries of tests/clients/requirements.txt"
  cp tests/clients/package-lock.json tests/clients/requirements.txt "$folder"
}

# stack: builds the component, the listener, and target/debug/stack, which runs the local stack. Progress goes to standard error.
stack() {
  toolchain_for_host
  local_postgres
  {
    say "==> The component (scripts/build)"
    scripts/build
    # scripts/test has built the stack with the tests. A build of the stack alone has fewer features, and would compile
    # Wasmtime once more.
    if [ -z "${STACK_IS_BUILT:-}" ]; then
      say "==> The local stack (the first build compiles Wasmtime: several minutes)"
      "${CARGO[@]}" build --package stack --package purple-flea-listener
    fi
  } >&2
}
