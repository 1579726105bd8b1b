"""A queue of edits on disk: one folder a job, one worker that keeps the model loaded; `hetcache-queue` drives it."""
