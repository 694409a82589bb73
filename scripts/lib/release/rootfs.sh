# shellcheck shell=bash
# Makes the root file system of the host's container image. Sourced by scripts/release.

# make_rootfs FOLDER HOST COMPONENT: copies the host, the component, and the host's shared libraries to the paths where its
# loader looks for them. It copies nothing else: no shell, no package manager.
make_rootfs() {
  local root=$1 library
  install_file 755 "$2" "$root$IMAGE_HOST"
  install_file 644 "$3" "$root$IMAGE_COMPONENT"
  install_file 644 LICENSE "$root/usr/share/doc/purple-flea-edge/LICENSE"
  # Without it glibc does not read /etc/hosts, where container runtimes write names.
  mkdir -p "$root/etc"
  printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"
  while read -r library; do
    install_file 755 "$library" "$root$library"
    copy_license "$library" "$root"
  done < <(libraries_of "$2")
}

# install_file MODE FROM TO: copies a file, and makes the folders above it.
install_file() {
  mkdir -p "$(dirname "$3")"
  cp --dereference "$2" "$3"
  chmod "$1" "$3"
}

# libraries_of PROGRAM: prints the paths of its loader and its shared libraries; none for a static program.
libraries_of() {
  local output
  # ldd fails for a program that is not dynamic.
  output=$(ldd "$1" 2> /dev/null) || return 0
  ! grep -q 'not found' <<< "$output" || die "$1 needs a library that this machine does not have"
  sed -nE 's#^\s+([^ ]+ => )?(/[^ ]+) \(0x[0-9a-f]+\)$#\2#p' <<< "$output"
}

# copy_license LIBRARY ROOT: copies the copyright file of the Debian package that a library comes from, if there is one.
copy_license() {
  local package
  package=$(dpkg-query --search "$1" "/usr$1" 2> /dev/null | head -n 1 | cut --delimiter : --fields 1) || true
  [ -z "$package" ] || [ ! -r "/usr/share/doc/$package/copyright" ] \
    || install_file 644 "/usr/share/doc/$package/copyright" "$2/usr/share/doc/$package/copyright"
}
