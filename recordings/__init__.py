"""What Asterisk recorded, brought to safety: two stores, each with a verified copy. REC-1, REC-2.

A leaf: plain values in, plain values out; it imports nothing else of Sanling.

capture    a finished spool file becomes one verified FLAC segment and its sidecar
stores     where copies lie: a folder, or S3
vault      spool → both stores → spool emptied, resumable at every point
worker     the process beside the event loop that does the arithmetic
listening  MP3 copies for people's ears
levels     how loud each side was
"""
