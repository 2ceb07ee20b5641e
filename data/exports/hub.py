"""An export that is made, sent to the Hugging Face hub as a private data set."""

from pathlib import Path

from hitl.core.errors import ConfigError, HitlError, WorkspaceError


def push(folder: Path, repository: str) -> str:
    """Send the folder to `owner/name`, which is made for it and private, and return its address.

    One that is there already may be public, and is somebody's data: it is left alone.

    Raises:
        ConfigError: there is no token, it may not write there, or the name is none or taken.
        WorkspaceError: the hub does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.whoami()
        made = api.create_repo(repository, repo_type="dataset", private=True)
        api.upload_folder(
            folder_path=folder, repo_id=made.repo_id, repo_type="dataset", commit_message="Ratings exported by hitl"
        )
    except LocalTokenNotFoundError as error:
        raise _kept(
            folder, ConfigError, "There is no token of the hub.", "Run `hf auth login`, or set HF_TOKEN"
        ) from error
    except HFValidationError as error:
        raise _kept(folder, ConfigError, f"{repository!r} is no name of a repository.", "Use OWNER/NAME") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            message = f"The hub does not let this token write to {repository} ({status})."
            raise _kept(folder, ConfigError, message, "Use a token that may write there") from error
        if status == 409:
            message = f"{repository} is on the hub already."
            raise _kept(folder, ConfigError, message, "Choose a name that is not taken") from error
        message = f"The hub refused {repository}: {_first_line(error)}."
        raise _kept(folder, WorkspaceError, message, "Try again later") from error
    except (HTTPError, OSError) as error:
        message = f"The hub does not answer: {_first_line(error)}."
        raise _kept(
            folder, WorkspaceError, message, "Look at the network, and at HF_HUB_OFFLINE and HF_ENDPOINT"
        ) from error
    return str(made)


def _kept(folder: Path, kind: type[HitlError], message: str, remedy: str) -> HitlError:
    return kind(
        message,
        hint=f"{remedy}. The export itself is in {folder}; `hf upload REPO {folder} --repo-type dataset` sends it too.",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
