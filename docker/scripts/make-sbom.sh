#!/bin/sh
# Writes what is installed beside the Python $1 into the file $2, as a CycloneDX SBOM in JSON. The
# tool has an environment of its own, so that it is no part of what it lists.
set -eu
python=${1:?python of the environment}
file=${2:?file}
checkout=$(cd "$(dirname "$0")/../.." && pwd)
tool=$(mktemp -d)
trap 'rm -rf "$tool"' EXIT
"$python" -m venv "$tool"
"$tool/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
  -r "$checkout/requirements/sbom.txt"
mkdir -p "$(dirname "$file")"
"$tool/bin/cyclonedx-py" environment --output-reproducible --output-format JSON \
  --output-file "$file" "$python"
