"""Readers of public point cloud recordings: one file a format, each with `entries`, which lists recordings, and `read`, which opens one.

    entries(path, options) -> Iterator[Entry]            what a folder holds, in a stated order; raises SourceError
    read(path, uri, options, span) -> Recording          the frames [start, stop) of one, or all; raises RecordingError, OSError
    content(path, uri, options) -> str                   hex sha256 of all that a recording is made of; raises OSError
    UP                                                   the axis that points up as recorded: "y", "z" or "-y"; points stay as they are

`pipeline.sources.recordings` makes a source of them, `pipeline.recording_sample` a sample of a recording.
"""
