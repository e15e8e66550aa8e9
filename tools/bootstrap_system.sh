# What tools/bootstrap knows about operating systems: which packages, how they are installed, what to say elsewhere.
# Supported: Debian 12+, Ubuntu 24.04+ (apt-get), macOS 14+ on Apple silicon (Homebrew). Sourced; bash 3.2.

apt_packages="g++ cmake ninja-build pkg-config ccache python3 python3-venv
libyaml-cpp-dev nlohmann-json3-dev libcli11-dev libfmt-dev libspdlog-dev libsentencepiece-dev libpcre2-dev
libutf8proc-dev libxxhash-dev libhwy-dev libgtest-dev libgmock-dev libbenchmark-dev"
brew_packages="cmake ninja pkgconf ccache python@3.13 libomp
yaml-cpp nlohmann-json cli11 fmt spdlog sentencepiece pcre2
utf8proc xxhash highway googletest google-benchmark"
supported="Debian 12+, Ubuntu 24.04+, macOS 14+ on Apple silicon"
formatter=clang-format-14  # one version everywhere: others break lines differently

# at_least A B: whether version A (two numbers) is not older than B.
at_least() {
  awk -v a="$1" -v b="$2" 'BEGIN {
    split(a, x, "."); split(b, y, ".")
    exit !(x[1] > y[1] || (x[1] == y[1] && x[2] + 0 >= y[2] + 0))
  }'
}

# A field of /etc/os-release.
os_release() { (. /etc/os-release 2>/dev/null && eval "echo \"\${$1:-}\""); }

# apt, brew or other.
package_manager() {
  local kind=other version
  case "$(uname -s)" in
    Linux)
      case " $(os_release ID) $(os_release ID_LIKE) " in
        *" debian "* | *" ubuntu "*) if command -v apt-get >/dev/null; then kind=apt; fi ;;
      esac
      version=$(os_release VERSION_ID)  # empty for a Debian not yet released
      case "$(os_release ID)" in
        debian) if ! at_least "${version:-99}" 12; then kind=other; fi ;;
        ubuntu) if ! at_least "$version" 24.04; then kind=other; fi ;;
      esac ;;
    Darwin) if [ "$(uname -m)" = arm64 ] && at_least "$(sw_vers -productVersion)" 14; then kind=brew; fi ;;
  esac
  echo $kind
}

# The system's name, for messages.
system_name() {
  case "$(uname -s)" in
    Darwin) echo "macOS $(sw_vers -productVersion) on $(uname -m)" ;;
    Linux) os_release PRETTY_NAME ;;
    *) uname -s ;;
  esac
}

# "<manager>: <packages>": what has to be there in this mode.
wanted_packages() {
  local manager
  manager=$(package_manager)
  case "$manager" in
    apt) echo "apt:" $apt_packages "$(if [ "$mode" = checks ]; then echo $formatter; fi)" ;;
    brew) echo "brew:" $brew_packages "$(if [ "$mode" = checks ]; then echo clang-format; fi)" ;;
    *) echo "other:" ;;
  esac
}

# install_packages "<manager>: <packages>": installs those that are missing, after saying which.
install_packages() {
  local missing
  case "$1" in
    apt:*)
      missing=$(missing_apt ${1#apt:})
      if [ -n "$missing" ]; then install_apt $missing; fi ;;
    brew:*)
      xcode-select -p >/dev/null 2>&1 || stop 2 "Apple's command line tools are missing. Run: xcode-select --install"
      command -v brew >/dev/null || stop 2 "Homebrew is missing. Install it as https://brew.sh says, then start again."
      missing=$(missing_brew ${1#brew:})
      if [ -n "$missing" ]; then install_brew $missing; fi ;;
    *)
      missing=$(missing_parts)
      if [ -n "$missing" ]; then
        stop 2 "$(system_name) is not supported ($supported are). Missing:" $missing
      fi ;;
  esac
}

missing_apt() {
  local package
  for package in "$@"; do
    if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then echo "$package"; fi
  done
}

missing_brew() {
  local package installed
  installed=" $(brew list --formula -1 | tr '\n' ' ') "
  for package in "$@"; do
    case "$installed" in *" $package "*) ;; *) echo "$package" ;; esac
  done
}

install_apt() {
  local run_as=""
  if [ "$(id -u)" != 0 ]; then
    if ! can_sudo; then
      echo "bootstrap: system packages are missing, and this account is not root and cannot use sudo." \
        "Have this run, then start again:" >&2
      echo "apt-get update && apt-get install -y --no-install-recommends $*" >&2
      exit 2
    fi
    run_as=sudo
  fi
  say "installing with apt-get: $*"
  attempt "apt-get update" $run_as apt-get -o DPkg::Lock::Timeout=300 update
  attempt "apt-get install" $run_as env DEBIAN_FRONTEND=noninteractive \
    apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"
}

# sudo without a password, or with somebody at the terminal to type it.
can_sudo() { command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; }

install_brew() {
  say "installing with Homebrew: $*"
  attempt "brew install" brew install "$@"
}

# On other systems: the tools and libraries that cannot be found.
missing_parts() {
  local part
  for part in g++ ninja pkg-config python3; do
    if ! command -v "$part" >/dev/null; then echo "$part"; fi
  done
  if [ -z "$(find_cmake)" ]; then echo "cmake>=3.25"; fi
  for part in yaml-cpp nlohmann_json CLI11 fmt spdlog sentencepiece libpcre2-8 libutf8proc libxxhash libhwy gtest gmock; do
    if ! pkg-config --exists "$part" 2>/dev/null; then echo "$part"; fi
  done
}

# A CMake that is new enough: an old one earlier on PATH is passed over.
find_cmake() {
  local cmake version
  for cmake in cmake /usr/bin/cmake /opt/homebrew/bin/cmake; do
    version=$("$cmake" --version 2>/dev/null | sed -n 's/^cmake version //p') || true
    if at_least "$version" 3.25; then echo "$cmake" && return; fi
  done
}
