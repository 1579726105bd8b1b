"""The adapter for diffusers: everything that knows diffusers lives in this package."""
