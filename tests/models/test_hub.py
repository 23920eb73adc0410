"""What is uploaded to the hub is what is loaded from there."""

import shutil

import pytest
from support import word_base
from support.refusal import error_of

import dinado_jax
from dinado_jax.controls.control_file import CONTROL, WEIGHTS

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of folders, by the names of repositories; and what was asked of it."""
    made, folders = {}, tmp_path / "hub"

    def create_repo(self, repo_id, *, private, exist_ok):
        assert exist_ok
        made[repo_id] = (private, self.token)

    def upload_folder(self, *, repo_id, folder_path):
        assert repo_id in made
        shutil.copytree(folder_path, folders / repo_id)
        return f"https://hub/{repo_id}/tree/main"

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", create_repo)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload_folder)
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, allow_patterns: str(folders / name)
    )
    return made, folders


def test_there_and_back(hub, tmp_path, monkeypatch):
    made, folders = hub
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = dinado_jax.load(word_base.write(tmp_path / "base"))
    assert (
        before.push_to_hub("me/base", private=True, token="hf_x") == "https://hub/me/base/tree/main"
    )
    base = dinado_jax.load("me/base")
    model = word_base.controlled(base, "merge")
    model.push_to_hub("me/control")
    assert made == {"me/base": (True, "hf_x"), "me/control": (False, None)}
    assert sorted(p.name for p in (folders / "me" / "control").iterdir()) == [CONTROL, WEIGHTS]
    found = dinado_jax.load("me/control")
    assert found.control == model.control and found.base.name == "me/base"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "hub"]


def test_faults_are_one_line(hub, tmp_path, monkeypatch):
    model = word_base.controlled(dinado_jax.load(word_base.write(tmp_path / "base")), "merge")

    def refuse(self, *args, **others):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    said = error_of(model.push_to_hub, "me/control")
    assert said.startswith("cannot upload to 'me/control' on the hub: check the name")
    assert "no route to host" in said
