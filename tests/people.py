"""What a person's browser does before it rates, for tests that speak to the API themselves."""

import httpx


def agree(client: httpx.Client) -> None:
    """As somebody who is signed in: agree to what is kept."""
    texts = client.get("/api/welcome").raise_for_status().json()
    sent = {"version": texts["version"], "language": texts["language"]}
    client.post("/api/consent", json=sent).raise_for_status()
