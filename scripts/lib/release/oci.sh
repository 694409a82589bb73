# shellcheck shell=bash
# Writes an OCI image layout (https://github.com/opencontainers/image-spec, version 1.1). Sourced by scripts/release.
# The caller sets LAYOUT, the layout's folder, SCRATCH, a folder for files in between, and CREATED, an RFC 3339 time.

MANIFEST_TYPE=application/vnd.oci.image.manifest.v1+json
# An artifact without a config has an empty object as its config. The specification gives that object a type of its own.
EMPTY_TYPE=application/vnd.oci.empty.v1+json

# begin_layout: makes an empty layout.
begin_layout() {
  mkdir -p "$LAYOUT/blobs/sha256"
  printf '{"imageLayoutVersion":"1.0.0"}' > "$LAYOUT/oci-layout"
  : > "$SCRATCH/manifests"
}

# blob MEDIA_TYPE FILE: adds a file to the layout and prints its descriptor.
blob() {
  local digest
  digest=$(digest_of "$2")
  cp "$2" "$LAYOUT/blobs/sha256/$digest"
  chmod 644 "$LAYOUT/blobs/sha256/$digest"
  jq --null-input --compact-output --arg type "$1" --arg digest "sha256:$digest" --argjson size "$(stat --format %s "$2")" \
    '{mediaType: $type, digest: $digest, size: $size}'
}

# json_blob MEDIA_TYPE: adds standard input, which is JSON, to the layout and prints its descriptor.
json_blob() {
  jq --compact-output --join-output . > "$SCRATCH/json"
  blob "$1" "$SCRATCH/json"
}

# digest_of FILE: prints a file's SHA-256 in hexadecimal.
digest_of() { sha256sum "$1" | cut --delimiter ' ' --fields 1; }

# add_manifest REF CONFIG LAYER [MORE]: adds a manifest of one layer under a name, and prints its descriptor. CONFIG and LAYER
# are descriptors; MORE is an object whose fields are added to the manifest.
add_manifest() {
  local none='{}' descriptor
  descriptor=$(jq --null-input --arg type "$MANIFEST_TYPE" --argjson config "$2" --argjson layer "$3" \
    --argjson more "${4:-$none}" --arg created "$CREATED" --arg version "$VERSION" '{
      schemaVersion: 2, mediaType: $type, config: $config, layers: [$layer],
      annotations: {"org.opencontainers.image.created": $created, "org.opencontainers.image.version": $version}
    } + $more' | json_blob "$MANIFEST_TYPE")
  jq --compact-output --arg ref "$1" --argjson more "${4:-$none}" \
    '. + ($more | {artifactType} | with_entries(select(.value))) + {annotations: {"org.opencontainers.image.ref.name": $ref}}' \
    <<< "$descriptor" >> "$SCRATCH/manifests"
  printf '%s' "$descriptor"
}

# end_layout: writes the index of all manifests.
end_layout() {
  jq --slurp --compact-output '{schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: .}' \
    "$SCRATCH/manifests" > "$LAYOUT/index.json"
}

# add_component REF FILE INTERFACES: adds a component as a Wasm artifact. INTERFACES is an object with its imports and exports.
add_component() {
  local layer config
  layer=$(blob application/wasm "$2")
  config=$(jq --null-input --arg created "$CREATED" --argjson layer "$layer" --argjson interfaces "$3" '{
      created: $created, architecture: "wasm", os: "wasip2", layerDigests: [$layer.digest],
      component: {imports: $interfaces.imports, exports: $interfaces.exports}
    }' | json_blob application/vnd.wasm.config.v0+json)
  add_manifest "$1" "$config" "$layer"
}

# add_sbom REF FILE SUBJECT: adds a bill of materials that refers to a manifest.
add_sbom() {
  local layer config more
  layer=$(blob application/vnd.cyclonedx+json "$2")
  config=$(json_blob "$EMPTY_TYPE" <<< '{}')
  more=$(jq --null-input --argjson subject "$3" '{artifactType: "application/vnd.cyclonedx+json", subject: $subject}')
  add_manifest "$1" "$config" "$layer" "$more" > /dev/null
}

# add_image REF ROOTFS ARCHITECTURE CONFIG: adds a container image whose one layer is a folder. CONFIG is the object `config` of
# the image: its entry point, its user.
add_image() {
  local layer config diff
  # The same files give the same bytes: sorted names, one time, one owner, no name and no time in gzip's header.
  tar --create --file "$SCRATCH/layer.tar" --directory "$2" --sort name --mtime "$CREATED" --owner 0 --group 0 --numeric-owner --mode u=rwX,go=rX \
    --format gnu .
  diff=sha256:$(digest_of "$SCRATCH/layer.tar")
  gzip --no-name --force "$SCRATCH/layer.tar"
  layer=$(blob application/vnd.oci.image.layer.v1.tar+gzip "$SCRATCH/layer.tar.gz")
  config=$(jq --null-input --arg created "$CREATED" --arg architecture "$3" --argjson config "$4" --arg diff "$diff" '{
      created: $created, architecture: $architecture, os: "linux", config: $config,
      rootfs: {type: "layers", diff_ids: [$diff]}, history: [{created: $created, created_by: "scripts/release"}]
    }' | json_blob application/vnd.oci.image.config.v1+json)
  add_manifest "$1" "$config" "$layer"
}
