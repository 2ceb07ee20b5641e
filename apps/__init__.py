"""The rating app: what raters and researchers see in the browser, and the small API beneath it."""
