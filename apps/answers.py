"""What a request that cannot be granted gets: JSON for programs, a page of one sentence for a person."""

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from apps.languages import STATIC, as_script
from apps.proxy import local_path


def error_response(request: Request, status: int, message: str, hint: str, *, wait_s: int | None = None) -> Response:
    """JSON for programs; a page of one sentence for a person who typed an address."""
    headers = {"Retry-After": str(wait_s)} if wait_s is not None else None
    if "text/html" in request.headers.get("accept", "") and not local_path(request.scope).startswith("/api/"):
        page = spoken_page("message.html")
        for name, text in (("message", message), ("hint", hint)):
            page = page.replace(f"<!-- {name} -->", text.replace("&", "&amp;").replace("<", "&lt;"))
        return HTMLResponse(page, status_code=status, headers=headers)
    return JSONResponse({"error": message, "hint": hint}, status_code=status, headers=headers)


def spoken_page(name: str) -> str:
    """A page of `static/` with the texts of all languages in it, and the script that chooses among them."""
    page = (STATIC / name).read_text(encoding="utf-8")
    script = (STATIC / "words.js").read_text(encoding="utf-8")
    return page.replace("<!-- words -->", f"<script>{as_script()}\n{script}</script>")
