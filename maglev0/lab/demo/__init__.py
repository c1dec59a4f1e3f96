"""What a newcomer sees: the demo's story and how it looks."""
