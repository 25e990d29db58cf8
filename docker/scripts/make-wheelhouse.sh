#!/bin/sh
# Fills the folder $1 with everything that `install-package.sh` needs without a network: the wheel
# of this checkout and what it depends on, for the extras $2. Run it where there is a network, with
# the same Python and kind of machine as the target.
set -eu
folder=${1:?folder}
extras=${2:-client,pdf,server}
checkout=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
mkdir -p "$folder"
"$python" -m pip wheel --disable-pip-version-check --wheel-dir "$folder" "${checkout}[${extras}]"
