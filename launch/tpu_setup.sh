#!/usr/bin/env bash
# Runs on every worker as part of `launch/tpu.sh setup`. It can be repeated at any time: what is already
# installed is kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=/mnt/dinado
if [ -n "${BUCKET:-}" ] && ! mountpoint -q "$folder"; then
  if ! command -v gcsfuse >/dev/null; then
    version=3.8.0
    package=gcsfuse_${version}_amd64.deb
    releases=https://github.com/GoogleCloudPlatform/gcsfuse/releases/download
    curl -fsSL "$releases/v$version/$package" -o "/tmp/$package"
    sudo apt-get install --yes --quiet "/tmp/$package"
  fi
  # The folder belongs to root, so that writes while the bucket is not mounted fail instead of ending up
  # on one worker's disk. Metadata is not cached, as every worker must see what the others write.
  sudo mkdir -p "$folder"
  sudo gcsfuse -o allow_other --uid "$(id -u)" --gid "$(id -g)" \
    --metadata-cache-ttl-secs 0 --metadata-cache-negative-ttl-secs 0 "$BUCKET" "$folder"
fi

# The system's Python may be older than 3.11.
PATH=$HOME/.local/bin:$PATH
command -v uv >/dev/null || curl -fsSL https://astral.sh/uv/install.sh | sh
uv venv --quiet --allow-existing --python 3.11 ../venv
uv pip install --quiet --python ../venv/bin/python --editable '.[tpu]'
echo "$(uname -n): ready"
