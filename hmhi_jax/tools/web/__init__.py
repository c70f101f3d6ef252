"""A page in the browser: a video in, masks, mattes and cut-outs out."""
