"""DiffSynth adapters: the only package, with the loader, that imports diffsynth."""
