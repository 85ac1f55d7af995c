"""Charts as SVG text, without a library: ``tags`` are written, ``axis`` scales, ``chart`` and ``heat`` draw."""
