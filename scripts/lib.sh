# Shared by the scripts in this folder; to be sourced by bash.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$repo/.cache

log() { printf '%s\n' "$*" >&2; }
die() { log "error: $*"; exit 1; }

# The interpreter that has vLLM, LMCache and pytest.
python_bin() { printf '%s' "${LARDER_PYTHON:-$cache/venv/bin/python}"; }

# The release binary.
larder_bin() { printf '%s' "${LARDER_BIN:-${CARGO_TARGET_DIR:-$repo/target}/release/larder}"; }

# A Python 3.11 to build the environment with.
system_python() {
  local candidate
  for candidate in python3.11 python3 python; do
    if command -v "$candidate" >/dev/null \
      && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  die "Python 3.11 is needed (vLLM and LMCache are pinned to it) and none is on PATH"
}

# apt_install COMMAND PACKAGE: have COMMAND, from the distribution's PACKAGE if it is missing.
apt_install() {
  local command=$1 package=$2 root=
  command -v "$command" >/dev/null && return
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "$command is missing: install the package $package"
    root=sudo
  fi
  log "installing $package"
  $root apt-get update -qq
  $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" >/dev/null
}

# apt_unpack PACKAGE DIRECTORY: unpack the distribution's PACKAGE without installing it. Needs no root, and
# leaves the machine's own lists of packages alone: a fresh machine has none, or old ones.
apt_unpack() {
  local package=$1 directory=$2 apt
  command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
  log "fetching $package"
  apt=$(mktemp -d)
  mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$directory"
  local options=(-qq -o Dir::State::lists="$apt/lists" -o Dir::Cache="$apt" -o APT::Sandbox::User="$(id -un)")
  (cd "$apt" && apt-get "${options[@]}" update >&2 && apt-get "${options[@]}" download "$package" >&2 \
    && dpkg -x "$package"_*.deb "$directory")
  local status=$?
  rm -rf "$apt"
  return $status
}
