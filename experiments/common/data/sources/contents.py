"""Tells by the first bytes of a file what it is, where its name says something else.

A failed download leaves a web page, a clone without Git LFS a few lines of text, and a renamed file
is still a GIF. Their readers would only say that such a file is damaged.
"""

START = 32  # bytes that are enough to tell

_PICKLE = "a pickle, which is not read because it may run code; numpy.savez stores arrays"
_OTHERS = (
    (b"\x1f\x8b", "gzipped; unpack it"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (
        b"version https://git-lfs",
        "only a pointer to the file; git lfs pull fetches the file itself",
    ),
    (b"<!doctype", "a web page, as a failed download leaves it; download the file again"),
    (b"<html", "a web page, as a failed download leaves it; download the file again"),
    (b"<?xml", "an XML file, as a failed download leaves it; download the file again"),
    *((bytes((0x80, protocol)), _PICKLE) for protocol in range(2, 6)),
    (b"\x89HDF", "an HDF5 file; numpy.savez stores arrays"),
    (b"MATLAB", "a file of MATLAB; scipy.io.loadmat reads it, and numpy.savez stores arrays"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"%PDF", "a PDF file"),
)


def describe(start: bytes) -> str | None:
    """Returns which kind of file starts with these bytes, with a remedy; None if unknown."""
    if not start:
        return "empty"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "a WebP image"
    if start[4:8] == b"ftyp":
        return "an image or a film in a container such as HEIC or MP4"
    lower = start.lstrip(b"\xef\xbb\xbf \r\n").lower()
    return next(
        (kind for magic, kind in _OTHERS if start.startswith(magic) or lower.startswith(magic)),
        None,
    )
