#!/bin/sh
# The CPU build of vLLM and the source folder $1, in a virtual environment at $2; the same steps and
# the same pinned versions as `make setup`. WHEELHOUSE=DIR installs from that folder alone, without a
# network.
set -eu
source=${1:?source folder}
target=${2:?folder of the virtual environment}
python=${PYTHON:-python3}
"$python" -m venv "$target"
pip="$target/bin/python -m pip install --no-cache-dir --disable-pip-version-check"
if [ -n "${WHEELHOUSE:-}" ]; then
  pip="$pip --no-index --find-links $WHEELHOUSE"
fi
$pip -r "$source/requirements/torch.txt"
$pip --no-deps -r "$source/requirements/cpu.txt" -r "$source/requirements/serve.txt"
$pip --no-deps --no-build-isolation "$source/requirements/vllm-name"
$pip --no-deps --no-build-isolation "$source"
