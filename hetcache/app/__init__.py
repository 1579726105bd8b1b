"""A page to work in: from a clip to an edit in a browser on this machine; `hetcache-app` serves it."""
