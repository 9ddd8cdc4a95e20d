"""The factory: makes images from recipes. recipe -> build -> trim -> pack."""
