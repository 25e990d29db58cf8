#!/bin/sh
# Fills the folder $1 with everything an installation without a network needs: the wheel of this
# checkout and what it depends on. $2 is the extras that `install-package.sh` will be given, or `cpu`
# for the pinned CPU build that `install-cpu.sh` installs. Run it where there is a network, with the
# same Python and kind of machine as the target.
set -eu
folder=${1:?folder}
extras=${2:-client,pdf,server}
checkout=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
pip="$python -m pip wheel --disable-pip-version-check --wheel-dir $folder"
mkdir -p "$folder"
if [ "$extras" = cpu ]; then
  $pip -r "$checkout/requirements/torch.txt"
  $pip --no-deps -r "$checkout/requirements/cpu.txt" -r "$checkout/requirements/serve.txt" \
    "$checkout/requirements/vllm-name" "$checkout"
else
  $pip "${checkout}[${extras}]"
fi
