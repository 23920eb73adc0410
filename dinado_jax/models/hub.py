"""Folders written to the hub; `hf_folder.locate` reads them from there."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from dinado_jax.errors import InputError, one_line, quote


def push(write: Callable[[Path], None], repo_id: str, private: bool, token: str | None) -> str:
    """Uploads a folder into a repository of the hub, which is made if it is not there.

    Args:
      write: writes the folder at a path that does not exist yet.
      repo_id: "OWNER/NAME".
      private: of a new repository, whether others may not see it.
      token: of the hub; None: that of `hf auth login`.

    Returns:
      The address of the upload.

    Raises:
      InputError: as `write`, and for whatever goes wrong with the hub.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory(prefix="dinado_push_") as made:
        folder = Path(made) / "folder"
        write(folder)
        try:
            api = HfApi(token=token)
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder))
        except Exception as error:  # the hub client lets errors of several HTTP libraries through
            raise InputError(
                f"cannot upload to {quote(repo_id)} on the hub: check the name, the network and "
                f"the token, `hf auth login` stores one ({one_line(error)})"
            ) from error
